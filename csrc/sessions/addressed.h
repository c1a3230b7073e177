// Stages whose tensors lie in a memory that Python manages, a GPU's for instance: the callable is told addresses.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <string>
#include <vector>

#include "core/memory.h"
#include "core/session.h"

namespace ctfast {

// Calls function(inputs, output): `inputs` maps names to (dtype, shape, address), `output` is such a tuple. The
// callable writes the result to where `output` is, or sees to it that this happens before anything else touches that
// memory.
class AddressedSession : public Session {
 public:
  // Made and destroyed with the interpreter lock held.
  AddressedSession(std::vector<std::string> inputs, pybind11::function function);

  const std::vector<std::string>& inputs() const override { return inputs_; }
  const std::vector<std::string>& outputs() const override { return outputs_; }

  // Error(request): such a stage has no memory of its own.
  std::vector<NamedTensor> run(const std::vector<NamedTensor>& inputs) override;
  void run_into(const std::vector<NamedTensor>& inputs, const TensorView& output) override;

 private:
  std::vector<std::string> inputs_;
  std::vector<std::string> outputs_{"y"};
  pybind11::function function_;
};

// (dtype, shape, address).
pybind11::tuple addressed(const TensorView& view);

// A Python object with
//   allocate(bytes) -> address, release(address),
//   copy(target, target_stride, source, source_stride, width, count), move(target, source, bytes),
//   row_sums(channels) -> object with add(address, dtype, voxels) and totals() -> (sums, squares),
//   spilled_rows(rows, width) -> object with write(first, count, address) and read(first, count, address).
// What it raises passes through as pybind11::error_already_set.
std::shared_ptr<Memory> python_memory(pybind11::object memory);

}  // namespace ctfast
