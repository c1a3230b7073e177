// What runs one network. Implementations live in csrc/sessions; the loops in csrc/core see only this.
#pragma once

#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "tensor.h"

namespace ctfast {

using NamedTensor = std::pair<std::string, TensorView>;

// The tensor of that name. Throws Error(plan), listing what there is, if there is none.
const TensorView& find_tensor(const std::vector<NamedTensor>& tensors, const std::string& name);

class Session {
 public:
  virtual ~Session() = default;

  // Names in the order the plan's manifest lists them.
  virtual const std::vector<std::string>& inputs() const = 0;
  virtual const std::vector<std::string>& outputs() const = 0;
  bool has_input(const std::string& name) const;

  // Runs the network once. Every input must be given by name, in any order; extra names are an error. A session
  // prepares itself for new shapes at their first use and keeps the last few. The returned views are the session's own
  // memory, valid until its next run. Not reentrant: one caller at a time.
  virtual std::vector<NamedTensor> run(const std::vector<NamedTensor>& inputs) = 0;

  // The same with the only output written to memory of the caller, of the right type and shape.
  virtual void run_into(const std::vector<NamedTensor>& inputs, const TensorView& output) = 0;

  // Gives back what is held between runs, for a session that may be used again later. The next run prepares itself
  // again.
  virtual void release_memory() {}

  // Held for a whole request by whoever may share the session with other threads. Recursive, because an observer may
  // use the session between two network calls of the request that it observes: no view is in use at that time.
  std::recursive_mutex& in_use() { return in_use_; }

 private:
  std::recursive_mutex in_use_;
};

}  // namespace ctfast
