#include "parallel.h"

#include <algorithm>
#include <cstring>
#include <thread>
#include <vector>

namespace ctfast {

namespace {

constexpr std::int64_t kLeastBytes = 1 << 20;

}  // namespace

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

void copy_bytes(void* target, const void* source, std::int64_t bytes, int threads) {
  auto* to = static_cast<std::byte*>(target);
  const auto* from = static_cast<const std::byte*>(source);
  parallel_for(bytes, threads, kLeastBytes, [&](int, std::int64_t first, std::int64_t last) {
    std::memcpy(to + first, from + first, static_cast<std::size_t>(last - first));
  });
}

}  // namespace ctfast
