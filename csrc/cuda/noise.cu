#include "ctfast_cuda.h"
#include "launch.h"
#include "ops/noise.h"

namespace {

using namespace ctfast;

// A thread makes whole blocks of four and keeps what lies in the range.
__global__ void fill(std::uint64_t seed, std::uint64_t sample, std::uint64_t first, float* out, std::int64_t count) {
  const std::uint64_t last = first + static_cast<std::uint64_t>(count);  // one past the end, or 0 at 2^64
  const std::uint64_t first_block = first / 4;
  const std::int64_t blocks = static_cast<std::int64_t>((last - 1) / 4 - first_block) + 1;
  for (std::int64_t i = cuda::first_item(); i < blocks; i += cuda::item_stride()) {
    const std::uint64_t block = first_block + static_cast<std::uint64_t>(i);
    const ops::NormalBlock normals = ops::normal_block(seed, sample, block);
    for (std::uint64_t lane = 0; lane < 4; ++lane) {
      const std::uint64_t at = block * 4 + lane - first;  // wraps round in front of the range
      if (at < static_cast<std::uint64_t>(count)) out[at] = normals.value[lane];
    }
  }
}

}  // namespace

int ctfast_cuda_noise(uint64_t seed, uint64_t sample, uint64_t first, float* out, int64_t count, void* stream) {
  if (count < 1) return 0;
  return cuda::launch(fill, cuda::blocks_for(count / 4 + 2), dim3(cuda::kThreads), static_cast<cuda::Stream>(stream),
                      seed, sample, first, out, count);
}
