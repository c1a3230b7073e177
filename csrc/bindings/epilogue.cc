// Intensities to int16 and label maps to condition channels.
#include "core/epilogue.h"

#include "bindings/array.h"
#include "bindings/choices.h"
#include "bindings/module.h"
#include "core/error.h"

namespace ctfast::bindings {

namespace {

using LabelArray = py::array_t<std::uint16_t, py::array::c_style>;

// A mask is never rounded in silence: anything but uint16 is refused.
LabelArray labels_of(const py::object& object) {
  const py::array array = py::array::ensure(object);
  if (!array || !array.dtype().equal(py::dtype::of<std::uint16_t>())) {
    PyErr_Clear();
    const std::string found = array ? py::str(array.dtype()).cast<std::string>() : "no array";
    throw Error(ErrorKind::request, "labels should be uint16 and are " + found);
  }
  return array;
}

std::span<const std::uint16_t> values_of(const LabelArray& labels) {
  return {labels.data(), static_cast<std::size_t>(labels.size())};
}

py::array hu_array(const FloatArray& image, const py::object& labels, float scale, float offset, float low, float high,
                   std::int16_t air, const std::string& rounding) {
  const HuMap map{scale, offset, low, high, air, rounding_of(rounding)};
  LabelArray mask;
  if (!labels.is_none()) {
    mask = labels_of(labels);
    if (mask.size() != image.size()) throw Error(ErrorKind::request, "labels should have the image's shape");
  }
  py::array_t<std::int16_t> out(std::vector<py::ssize_t>(image.shape(), image.shape() + image.ndim()));
  const std::span<const float> voxels(image.data(), static_cast<std::size_t>(image.size()));
  const std::span<std::int16_t> result(out.mutable_data(), static_cast<std::size_t>(out.size()));
  const std::span<const std::uint16_t> crop = labels.is_none() ? std::span<const std::uint16_t>{} : values_of(mask);
  {
    const py::gil_scoped_release unlocked;
    to_hu(voxels, map, crop, result);
  }
  return out;
}

py::array bits_array(const py::object& object, int bits) {
  const LabelArray labels = labels_of(object);
  Shape shape{bits};
  shape.insert(shape.end(), labels.shape(), labels.shape() + labels.ndim());
  if (bits < 1) throw Error(ErrorKind::request, "bits should be at least 1");
  Tensor out(DType::f32, std::move(shape));
  const std::span<const std::uint16_t> values = values_of(labels);
  {
    const py::gil_scoped_release unlocked;
    label_bits(values, bits, out.f32());
  }
  return share_as_array(out);
}

}  // namespace

void bind_epilogue(py::module_& module) {
  const HuMap defaults;
  module.def("to_hu", &hu_array, py::arg("image"), py::arg("labels") = py::none(), py::arg("scale") = defaults.scale,
             py::arg("offset") = defaults.offset, py::arg("low") = defaults.low, py::arg("high") = defaults.high,
             py::arg("air") = defaults.air, py::arg("rounding") = "nearest");
  module.def("label_bits", &bits_array, py::arg("labels"), py::arg("bits"));
}

}  // namespace ctfast::bindings
