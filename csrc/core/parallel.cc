#include "parallel.h"

#include <algorithm>
#include <thread>
#include <vector>

namespace ctfast {

int parallel_for(std::int64_t count, int threads, std::int64_t least,
                 const std::function<void(int, std::int64_t, std::int64_t)>& body) {
  if (count <= 0) return 0;
  const std::int64_t most = std::max<std::int64_t>(count / std::max<std::int64_t>(least, 1), 1);
  const auto parts = static_cast<int>(std::min<std::int64_t>(std::max(threads, 1), most));
  const auto edge = [&](int part) { return count * part / parts; };
  std::vector<std::jthread> others;
  others.reserve(static_cast<std::size_t>(parts - 1));
  for (int part = 1; part < parts; ++part) {
    others.emplace_back([&body, &edge, part] { body(part, edge(part), edge(part + 1)); });
  }
  body(0, 0, edge(1));
  return parts;
}

}  // namespace ctfast
