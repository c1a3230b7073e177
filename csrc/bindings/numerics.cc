// Noise, time grids and solvers: what the tests and other backends share with the runtime.
#include <pybind11/stl.h>

#include "bindings/array.h"
#include "bindings/choices.h"
#include "bindings/module.h"
#include "bindings/observer.h"
#include "core/error.h"
#include "core/noise.h"
#include "core/solver.h"
#include "core/time_grid.h"

namespace ctfast::bindings {

namespace {

py::array normal_array(std::uint64_t seed, std::uint64_t sample, const Shape& shape) {
  Tensor noise(DType::f32, shape);
  {
    const py::gil_scoped_release unlocked;
    fill_normal(seed, sample, 0, noise.f32());
  }
  return share_as_array(noise);
}

py::tuple time_grid(int steps, std::int64_t latent_voxels, const std::string& mode, std::int64_t train_steps,
                    std::int64_t base_voxels, int spatial_dim, bool transform, std::int64_t steps_offset) {
  const RFlowOptions options{train_steps, base_voxels, spatial_dim, transform, steps_offset};
  const TimeGrid grid = rflow_time_grid(steps, latent_voxels, grid_mode_of(mode), options);
  return py::make_tuple(py::array(py::cast(grid.t)), py::array(py::cast(grid.dt)));
}

py::tuple given_grid(const std::vector<double>& times, std::int64_t latent_voxels, std::int64_t train_steps,
                     std::int64_t base_voxels, bool transform) {
  const RFlowOptions options{.train_steps = train_steps, .base_voxels = base_voxels, .transform = transform};
  const TimeGrid grid = given_time_grid(times, latent_voxels, options);
  return py::make_tuple(py::array(py::cast(grid.t)), py::array(py::cast(grid.dt)));
}

py::array integrate_python(const std::string& solver, std::vector<double> t, std::vector<double> dt,
                           const py::function& velocity, const py::object& x, const py::object& observer) {
  const py::array given = contiguous(x, "x");
  const TensorView start = view_of(given, "x");
  Tensor state(DType::f32, start.shape);
  std::ranges::copy(start.f32(), state.f32().begin());
  const auto call = [&velocity, &start](std::span<const float> at, double time, std::span<float> v) {
    const py::gil_scoped_acquire lock;
    const py::array position = copy_to_array({DType::f32, start.shape, const_cast<float*>(at.data())});
    const py::array answer = contiguous(velocity(position, time), "velocity");
    const TensorView view = view_of(answer, "velocity");
    if (view.dtype != DType::f32 || view.shape != start.shape) {
      throw Error(ErrorKind::request, "the velocity should be float32 and have the shape of x");
    }
    std::ranges::copy(view.f32(), v.begin());
  };
  const Observer watch = observer_of(observer);
  {
    const py::gil_scoped_release unlocked;
    integrate(solver_of(solver), {std::move(t), std::move(dt)}, call, state.f32(), watch);
  }
  return share_as_array(state);
}

std::vector<SolverCall> calls_of(const std::string& solver, std::vector<double> t, std::vector<double> dt) {
  return solver_calls(solver_of(solver), {std::move(t), std::move(dt)});
}

}  // namespace

void bind_numerics(py::module_& module) {
  const RFlowOptions defaults;
  module.def("fill_normal", &normal_array, py::arg("seed"), py::arg("sample"), py::arg("shape"));
  module.def("philox4x32", &philox4x32, py::arg("counter"), py::arg("key"));
  module.def("rflow_time_grid", &time_grid, py::arg("steps"), py::arg("latent_voxels"), py::arg("mode") = "monai",
             py::kw_only(), py::arg("train_steps") = defaults.train_steps,
             py::arg("base_voxels") = defaults.base_voxels, py::arg("spatial_dim") = defaults.spatial_dim,
             py::arg("transform") = defaults.transform, py::arg("steps_offset") = defaults.steps_offset);
  module.def("given_time_grid", &given_grid, py::arg("times"), py::arg("latent_voxels"), py::kw_only(),
             py::arg("train_steps") = defaults.train_steps, py::arg("base_voxels") = defaults.base_voxels,
             py::arg("transform") = defaults.transform);
  py::class_<SolverCall>(module, "SolverCall")
      .def_readonly("step", &SolverCall::step)
      .def_readonly("t", &SolverCall::t)
      .def_readonly("point", &SolverCall::point)
      .def_readonly("velocity", &SolverCall::velocity)
      .def_readonly("keep", &SolverCall::keep)
      .def_readonly("mix", &SolverCall::mix)
      .def_readonly("stay", &SolverCall::stay)
      .def_readonly("lead", &SolverCall::lead);
  module.def("solver_calls", &calls_of, py::arg("solver"), py::arg("t"), py::arg("dt"));
  module.def("integrate", &integrate_python, py::arg("solver"), py::arg("t"), py::arg("dt"), py::arg("velocity"),
             py::arg("x"), py::arg("observer") = py::none());
}

}  // namespace ctfast::bindings
