#include "sessions/callable.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "bindings/array.h"
#include "core/error.h"

namespace ctfast {

namespace py = pybind11;

CallableSession::CallableSession(std::vector<std::string> inputs, std::vector<std::string> outputs,
                                 py::function function)
    : inputs_(std::move(inputs)), outputs_(std::move(outputs)), function_(std::move(function)) {}

std::vector<NamedTensor> CallableSession::run(const std::vector<NamedTensor>& inputs) {
  for (const NamedTensor& tensor : inputs) {
    if (!has_input(tensor.first)) {
      throw Error(ErrorKind::request, "the callable network has no input '" + tensor.first + "'");
    }
  }
  for (const std::string& name : inputs_) {
    if (std::ranges::find(inputs, name, &NamedTensor::first) == inputs.end()) {
      throw Error(ErrorKind::request, "the callable network needs input '" + name + "', which was not given");
    }
  }
  const py::gil_scoped_acquire lock;
  py::dict arguments;
  for (const auto& [name, view] : inputs) arguments[py::str(name)] = bindings::copy_to_array(view);
  const py::object answer = function_(arguments);
  if (!py::isinstance<py::dict>(answer)) {
    throw Error(ErrorKind::request, "the callable network should return a dict of arrays and returned " +
                                        py::str(py::type::of(answer)).cast<std::string>());
  }
  const auto arrays = py::reinterpret_borrow<py::dict>(answer);
  std::vector<py::object> keep;
  std::vector<NamedTensor> views;
  for (const std::string& name : outputs_) {
    if (!arrays.contains(name)) {
      throw Error(ErrorKind::request, "the callable network returned no output '" + name + "'");
    }
    const py::object value = arrays[py::str(name)];
    bindings::FloatArray array = bindings::FloatArray::ensure(value);
    if (!array) {
      PyErr_Clear();
      throw Error(ErrorKind::request, "the callable network's output '" + name + "' is not an array of numbers");
    }
    views.emplace_back(name, bindings::view_of(array, name));
    keep.push_back(std::move(array));
  }
  results_ = std::move(keep);
  return views;
}

void CallableSession::run_into(const std::vector<NamedTensor>& inputs, const TensorView& output) {
  const std::vector<NamedTensor> results = run(inputs);
  const TensorView& result = results.front().second;
  if (results.size() != 1 || result.shape != output.shape || result.dtype != output.dtype) {
    throw Error(ErrorKind::plan, "the callable network should return one float32 array of the size that is expected");
  }
  std::memcpy(output.data, result.data, result.bytes());
}

}  // namespace ctfast
