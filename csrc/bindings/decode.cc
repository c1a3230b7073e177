// Between latents and images.
#include "core/decode.h"

#include <pybind11/stl.h>

#include "bindings/array.h"
#include "bindings/module.h"
#include "bindings/observer.h"
#include "bindings/session_lock.h"
#include "core/encode.h"

namespace ctfast::bindings {

namespace {

py::array decode_array(Session& session, const py::object& latent, double scale_factor, const Extent3& compression,
                       std::optional<Extent3> window, double overlap, const py::object& observer) {
  const py::array given = contiguous(latent, "latent");
  const TensorView view = view_of(given, "latent");
  const DecodeOptions options{scale_factor, compression, window, overlap};
  const Observer watch = observer_of(observer);
  Tensor image;
  {
    const py::gil_scoped_release unlocked;
    const SessionLock lock(session);
    image = decode(session, view, options, watch);
  }
  return share_as_array(image);
}

py::tuple encode_array(Session& session, const py::object& image, const Extent3& compression,
                       const py::object& observer) {
  const py::array given = contiguous(image, "image");
  const TensorView view = view_of(given, "image");
  const Observer watch = observer_of(observer);
  Encoded encoded;
  {
    const py::gil_scoped_release unlocked;
    const SessionLock lock(session);
    encoded = encode(session, view, compression, watch);
  }
  return py::make_tuple(share_as_array(encoded.mean), share_as_array(encoded.log_variance));
}

}  // namespace

void bind_decode(py::module_& module) {
  const DecodeOptions defaults;
  module.def("decode", &decode_array, py::arg("session"), py::arg("latent"), py::arg("scale_factor"),
             py::arg("compression") = defaults.compression, py::arg("window") = py::none(),
             py::arg("overlap") = defaults.overlap, py::arg("observer") = py::none());
  module.def("encode", &encode_array, py::arg("session"), py::arg("image"),
             py::arg("compression") = defaults.compression, py::arg("observer") = py::none());
}

}  // namespace ctfast::bindings
