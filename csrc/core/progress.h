// Progress and cancellation: one callback serves both.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>

namespace ctfast {

struct Progress {
  std::string_view stage;  // "condition", "sample", "decode", "encode", "finish"
  std::int64_t done = 0;
  std::int64_t total = 0;
};

// Called on the thread that runs the request, between network calls. Returning false cancels: the caller then sees
// Error(ErrorKind::cancelled). May be empty.
using Observer = std::function<bool(const Progress&)>;

// Reports and throws Error(cancelled) if the observer asked to stop.
void report(const Observer& observer, const Progress& progress);

}  // namespace ctfast
