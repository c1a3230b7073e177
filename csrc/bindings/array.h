// numpy arrays on one side, TensorView and Tensor on the other.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "core/tensor.h"

namespace ctfast::bindings {

namespace py = pybind11;

using FloatArray = py::array_t<float, py::array::c_style | py::array::forcecast>;

// A view of a C-contiguous array's memory, valid while the array lives. Throws Error(request) for a type that networks
// do not take; `name` stands for the array in the message.
TensorView view_of(const py::array& array, const std::string& name);

// `object` as a C-contiguous array of float32, int64 or uint8, copied only if it is something else.
py::array contiguous(const py::handle& object, const std::string& name);

// A new array with the view's contents.
py::array copy_to_array(const TensorView& view);

// An array that shares the tensor's memory and keeps it alive.
py::array share_as_array(const Tensor& tensor);

std::string describe(const std::vector<py::ssize_t>& shape);  // "(4, 16, 16, 16)"

}  // namespace ctfast::bindings
