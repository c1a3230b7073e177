#include "bindings/array.h"

#include <cstring>

#include "core/error.h"

namespace ctfast::bindings {

namespace {

py::dtype dtype_of(DType type) {
  switch (type) {
    case DType::f32: return py::dtype::of<float>();
    case DType::i64: return py::dtype::of<std::int64_t>();
    case DType::u8: return py::dtype::of<std::uint8_t>();
    case DType::bf16: break;
  }
  throw Error(ErrorKind::request, "arrays of bfloat16 do not exist in Python");
}

std::vector<py::ssize_t> extents(const TensorView& view) { return {view.shape.begin(), view.shape.end()}; }

}  // namespace

TensorView view_of(const py::array& array, const std::string& name) {
  TensorView view;
  view.shape.assign(array.shape(), array.shape() + array.ndim());
  view.data = const_cast<void*>(array.data());
  if (array.dtype().equal(py::dtype::of<float>())) {
    view.dtype = DType::f32;
  } else if (array.dtype().equal(py::dtype::of<std::int64_t>())) {
    view.dtype = DType::i64;
  } else if (array.dtype().equal(py::dtype::of<std::uint8_t>())) {
    view.dtype = DType::u8;
  } else {
    throw Error(ErrorKind::request, "'" + name + "' should be float32, int64 or uint8 and is " +
                                        py::str(array.dtype()).cast<std::string>());
  }
  return view;
}

py::array contiguous(const py::handle& object, const std::string& name) {
  py::array array = py::array::ensure(object, py::array::c_style);
  if (!array) {
    PyErr_Clear();
    throw Error(ErrorKind::request, "'" + name + "' is not an array of numbers");
  }
  if (array.dtype().kind() == 'f') return FloatArray::ensure(array);
  return array;
}

py::array copy_to_array(const TensorView& view) {
  py::array array(dtype_of(view.dtype), extents(view));
  std::memcpy(array.mutable_data(), view.data, view.bytes());
  return array;
}

py::array share_as_array(const Tensor& tensor) {
  auto owner = std::make_unique<Tensor>(tensor);
  py::capsule keeper(owner.get(), [](void* pointer) { delete static_cast<Tensor*>(pointer); });
  const Tensor& kept = *owner.release();
  return py::array(dtype_of(kept.view().dtype), extents(kept.view()), kept.view().data, keeper);
}

std::string describe(const std::vector<py::ssize_t>& shape) {
  std::string text;
  for (const py::ssize_t extent : shape) text += (text.empty() ? "" : ", ") + std::to_string(extent);
  return "(" + text + (shape.size() == 1 ? ",)" : ")");
}

}  // namespace ctfast::bindings
