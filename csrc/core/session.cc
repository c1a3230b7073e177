#include "session.h"

#include <algorithm>

#include "error.h"

namespace ctfast {

const TensorView& find_tensor(const std::vector<NamedTensor>& tensors, const std::string& name) {
  const auto found = std::ranges::find(tensors, name, &NamedTensor::first);
  if (found != tensors.end()) return found->second;
  std::string names;
  for (const NamedTensor& tensor : tensors) names += (names.empty() ? "" : ", ") + tensor.first;
  throw Error(ErrorKind::plan,
              "expected the network to have an output '" + name + "', found " + names + ". Build the plan again.");
}

bool Session::has_input(const std::string& name) const { return std::ranges::find(inputs(), name) != inputs().end(); }

}  // namespace ctfast
