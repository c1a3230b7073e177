// How the kernels of this folder are started. They compile as C++ too, with a stand-in for the device
// (`cuda_on_host.h`, of the tests), and so keep to blocks, shared memory, barriers and atomics.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)

#include <cuda_runtime.h>

namespace ctfast::cuda {

using Stream = cudaStream_t;

constexpr int kThreads = 256;  // of a block

// Puts a kernel into a stream; what went wrong in that (no driver, no code for this device) is the result, 0 if
// nothing.
template <class... Parameters, class... Arguments>
int launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, Stream stream, Arguments... arguments) {
  kernel<<<grid, block, 0, stream>>>(static_cast<Parameters>(arguments)...);
  return static_cast<int>(cudaGetLastError());
}

// The same of a kernel whose threads wait for one another.
template <class... Parameters, class... Arguments>
int launch_together(void (*kernel)(Parameters...), dim3 grid, dim3 block, Stream stream, Arguments... arguments) {
  return launch(kernel, grid, block, stream, arguments...);
}

}  // namespace ctfast::cuda

#else
#include "cuda_on_host.h"
#endif

namespace ctfast::cuda {

// Blocks that keep the largest device busy; what is longer, they share. Also keeps grids below every limit.
constexpr std::int64_t kMostBlocks = 4096;

// Blocks of kThreads for so many items, at least one.
inline dim3 blocks_for(std::int64_t items) {
  const std::int64_t blocks = (items + kThreads - 1) / kThreads;
  return dim3(static_cast<unsigned>(blocks < 1 ? 1 : (blocks < kMostBlocks ? blocks : kMostBlocks)), 1, 1);
}

// Of a loop in which all threads of a grid share items 0, 1, ...
__device__ inline std::int64_t first_item() {
  return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + static_cast<std::int64_t>(threadIdx.x);
}
__device__ inline std::int64_t item_stride() { return static_cast<std::int64_t>(gridDim.x) * blockDim.x; }

}  // namespace ctfast::cuda
