// Where decode windows lie and how they are weighted.
#include <pybind11/stl.h>

#include "bindings/array.h"
#include "bindings/module.h"
#include "core/window.h"

namespace ctfast::bindings {

namespace {

py::tuple window_starts(const Extent3& volume, const Extent3& window, double overlap) {
  const WindowPlan plan = plan_windows(volume, window, overlap);
  return py::make_tuple(plan.starts, plan.size);
}

py::array gaussian_window(const Extent3& window, double sigma_scale) {
  Tensor map(DType::f32, {window[0], window[1], window[2]});
  std::ranges::copy(weight_map(gaussian_weights(window, sigma_scale)), map.f32().begin());
  return share_as_array(map);
}

}  // namespace

void bind_windows(py::module_& module) {
  module.def("window_starts", &window_starts, py::arg("volume"), py::arg("window"), py::arg("overlap"));
  module.def("gaussian_window", &gaussian_window, py::arg("window"), py::arg("sigma_scale") = 0.125);
}

}  // namespace ctfast::bindings
