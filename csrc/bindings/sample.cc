// From noise to a latent.
#include <pybind11/stl.h>

#include "bindings/array.h"
#include "bindings/choices.h"
#include "bindings/module.h"
#include "bindings/observer.h"
#include "bindings/session_lock.h"
#include "core/sampler.h"

namespace ctfast::bindings {

namespace {

Schedule schedule_of(const std::string& method, const std::string& solver, std::vector<double> t,
                     std::vector<double> dt, std::int64_t train_steps, double beta_start, double beta_end,
                     std::int64_t steps, double eta) {
  switch (method_of(method)) {
    case Method::flow: return FlowRun{solver_of(solver), {std::move(t), std::move(dt)}};
    case Method::ddpm: return DdpmRun{scaled_linear_schedule(train_steps, beta_start, beta_end), steps};
    case Method::ddim: {
      DdimOptions options;
      options.eta = eta;
      return DdimRun{scaled_linear_schedule(train_steps, beta_start, beta_end), steps, options};
    }
  }
  return {};
}

// None is a view without data.
TensorView optional_view(const py::object& object, py::array& keep, const char* name) {
  if (object.is_none()) return {};
  keep = contiguous(object, name);
  return view_of(keep, name);
}

py::array sample_latent(Session& denoiser, Session* controlnet, const std::array<std::int64_t, 4>& shape,
                        std::uint64_t seed, std::uint64_t sample_number, const py::object& latents,
                        const std::string& method, std::vector<double> t, std::vector<double> dt,
                        const std::string& solver, double beta_start, double beta_end, std::int64_t train_steps,
                        std::int64_t steps, double eta, std::optional<std::int64_t> class_label,
                        std::optional<std::array<double, 3>> spacing, std::optional<std::array<double, 4>> top_region,
                        std::optional<std::array<double, 4>> bottom_region, const py::object& condition,
                        double control_scale, double guidance, const std::string& guidance_kind,
                        const py::object& observer) {
  py::array keep_latents;
  py::array keep_condition;
  SampleInputs inputs;
  inputs.shape = shape;
  inputs.seed = seed;
  inputs.sample = sample_number;
  inputs.latents = optional_view(latents, keep_latents, "latents");
  inputs.schedule =
      schedule_of(method, solver, std::move(t), std::move(dt), train_steps, beta_start, beta_end, steps, eta);
  inputs.class_label = class_label;
  inputs.spacing = spacing;
  inputs.top_region = top_region;
  inputs.bottom_region = bottom_region;
  inputs.condition = optional_view(condition, keep_condition, "condition");
  inputs.control_scale = control_scale;
  inputs.guidance = {guidance_kind_of(guidance_kind), guidance};
  const Observer watch = observer_of(observer);
  Tensor latent;
  {
    const py::gil_scoped_release unlocked;
    const SessionLock lock(denoiser, controlnet);
    latent = sample(denoiser, controlnet, inputs, watch);
  }
  return share_as_array(latent);
}

}  // namespace

void bind_sample(py::module_& module) {
  module.def("sample", &sample_latent, py::arg("denoiser"), py::arg("controlnet").none(true), py::kw_only(),
             py::arg("shape"), py::arg("seed"), py::arg("sample") = 0, py::arg("latents") = py::none(),
             py::arg("method") = "flow", py::arg("t") = std::vector<double>{}, py::arg("dt") = std::vector<double>{},
             py::arg("solver") = "euler", py::arg("beta_start") = 0.0, py::arg("beta_end") = 0.0,
             py::arg("train_steps") = 1000, py::arg("steps") = 1000, py::arg("eta") = 0.0,
             py::arg("class_label") = py::none(), py::arg("spacing") = py::none(), py::arg("top_region") = py::none(),
             py::arg("bottom_region") = py::none(), py::arg("condition") = py::none(), py::arg("control_scale") = 1.0,
             py::arg("guidance") = 0.0, py::arg("guidance_kind") = "none", py::arg("observer") = py::none());
}

}  // namespace ctfast::bindings
