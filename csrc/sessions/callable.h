// A network that is a Python callable: a dict of arrays in, a dict of arrays out. For other backends and for tests.
#pragma once

#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "core/session.h"

namespace ctfast {

class CallableSession : public Session {
 public:
  // Made and destroyed with the interpreter lock held.
  CallableSession(std::vector<std::string> inputs, std::vector<std::string> outputs, pybind11::function function);

  const std::vector<std::string>& inputs() const override { return inputs_; }
  const std::vector<std::string>& outputs() const override { return outputs_; }

  // Takes the interpreter lock itself. The callable gets copies, which it may keep or change. What it raises passes
  // through as pybind11::error_already_set; a wrong set of names is Error(request).
  std::vector<NamedTensor> run(const std::vector<NamedTensor>& inputs) override;
  void run_into(const std::vector<NamedTensor>& inputs, const TensorView& output) override;

 private:
  std::vector<std::string> inputs_;
  std::vector<std::string> outputs_;
  pybind11::function function_;
  std::vector<pybind11::object> results_;  // keeps the arrays behind the returned views
};

}  // namespace ctfast
