// What csrc/cuda needs of CUDA, on this computer: its kernels compile as C++ and run block after block. Threads of a
// block that wait for one another are threads here too, so that a race is one for the thread sanitizer; the others run
// in turn.
#pragma once

#include <atomic>
#include <barrier>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __shared__ static  // blocks run one at a time

struct dim3 {
  unsigned x = 1;
  unsigned y = 1;
  unsigned z = 1;
  explicit dim3(unsigned width = 1, unsigned height = 1, unsigned depth = 1) : x(width), y(height), z(depth) {}
};

using cudaError_t = int;
inline const char* cudaGetErrorString(cudaError_t code) { return code == 0 ? "no error" : "an error"; }

inline cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return 0;
}

inline thread_local dim3 threadIdx;
inline thread_local dim3 blockIdx;
inline thread_local dim3 blockDim;
inline thread_local dim3 gridDim;

namespace ctfast::cuda {

using Stream = void*;

constexpr int kThreads = 64;  // a block's; fewer than on a device, since each is a thread here

inline thread_local std::barrier<>* together = nullptr;

// Runs body(block) for every block of a grid.
template <class Body>
void for_each_block(dim3 grid, Body body) {
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) body(dim3(x, y, z));
    }
  }
}

inline void be_thread(dim3 grid, dim3 block, dim3 at, unsigned thread, std::barrier<>* others) {
  gridDim = grid;
  blockDim = block;
  blockIdx = at;
  threadIdx = dim3(thread, 0, 0);
  together = others;
}

template <class... Parameters, class... Arguments>
int launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, Stream, Arguments... arguments) {
  for_each_block(grid, [&](dim3 at) {
    for (unsigned thread = 0; thread < block.x; ++thread) {
      be_thread(grid, block, at, thread, nullptr);
      kernel(arguments...);
    }
  });
  return 0;
}

template <class... Parameters, class... Arguments>
int launch_together(void (*kernel)(Parameters...), dim3 grid, dim3 block, Stream, Arguments... arguments) {
  std::barrier<> others(static_cast<std::ptrdiff_t>(block.x));
  std::vector<std::jthread> threads;
  for (unsigned thread = 0; thread < block.x; ++thread) {
    threads.emplace_back([&, thread] {
      for_each_block(grid, [&](dim3 at) {
        be_thread(grid, block, at, thread, &others);
        kernel(arguments...);
        others.arrive_and_wait();  // the next block has the same shared memory
      });
    });
  }
  return 0;
}

}  // namespace ctfast::cuda

inline void __syncthreads() { ctfast::cuda::together->arrive_and_wait(); }

template <class Value>
Value atomicAdd(Value* place, Value value) {
  return std::atomic_ref<Value>(*place).fetch_add(value);
}
