#include "session.h"

#include <algorithm>

namespace ctfast {

bool Session::has_input(const std::string& name) const {
  const std::vector<std::string>& names = inputs();
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace ctfast
