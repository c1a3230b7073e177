// Loops over memory on several threads.
#pragma once

#include <cstdint>
#include <functional>

namespace ctfast {

// Calls body(part, first, last) for contiguous parts that make up [0, count), each on a thread of its own, at most
// `threads` (at least 1) and fewer where parts would have less than `least` items. Returns how many parts there were.
// The body must not throw. Threads are made for each call: a few tens of microseconds, so this is for megabytes.
int parallel_for(std::int64_t count, int threads, std::int64_t least,
                 const std::function<void(int part, std::int64_t first, std::int64_t last)>& body);

}  // namespace ctfast
