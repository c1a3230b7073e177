#include <cmath>

#include "ctfast_cuda.h"
#include "launch.h"
#include "ops/median.h"

namespace {

using namespace ctfast;

constexpr std::int64_t kRun = 16;  // voxels side by side of a thread, in which equal ones are counted together

template <class Label>
__global__ void count(const std::int16_t* values, const Label* labels, std::int64_t voxels, std::uint32_t* counts,
                      std::int64_t rows, std::int64_t bins, std::int64_t first) {
  const std::int64_t runs = (voxels + kRun - 1) / kRun;
  for (std::int64_t run = cuda::first_item(); run < runs; run += cuda::item_stride()) {
    const std::int64_t last = (run + 1) * kRun < voxels ? (run + 1) * kRun : voxels;
    std::int64_t place = -1;
    unsigned equal = 0;
    for (std::int64_t i = run * kRun; i < last; ++i) {
      const std::int64_t label = labels[i];
      std::int64_t bin = values[i] - first;
      bin = bin < 0 ? 0 : (bin < bins ? bin : bins - 1);
      const std::int64_t at = label == 0 || label >= rows ? -1 : label * bins + bin;
      if (at != place) {
        if (place >= 0) atomicAdd(counts + place, equal);
        place = at;
        equal = 0;
      }
      ++equal;
    }
    if (place >= 0) atomicAdd(counts + place, equal);
  }
}

// A block for each row: its threads count what is in it, the first one then goes through it.
__global__ void find(const std::uint32_t* counts, std::int64_t bins, std::int64_t first, float* medians,
                     std::int64_t* counted) {
  __shared__ std::int64_t pieces[cuda::kThreads];
  const std::uint32_t* row = counts + static_cast<std::int64_t>(blockIdx.x) * bins;
  std::int64_t sum = 0;
  for (std::int64_t bin = threadIdx.x; bin < bins; bin += cuda::kThreads) sum += row[bin];
  pieces[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    std::int64_t total = 0;
    for (const std::int64_t piece : pieces) total += piece;
    counted[blockIdx.x] = total;
    medians[blockIdx.x] = total == 0 ? NAN : ops::median(row, bins, first, total);
  }
}

}  // namespace

int ctfast_cuda_count_values(const int16_t* values, const void* labels, int32_t labels_type, int64_t voxels,
                             uint32_t* counts, int64_t rows, int64_t bins, int64_t first, void* stream) {
  if (voxels < 1) return 0;
  const dim3 grid = cuda::blocks_for((voxels + kRun - 1) / kRun);
  const dim3 block(cuda::kThreads);
  const auto queue = static_cast<cuda::Stream>(stream);
  if (labels_type == kUint16) {
    return cuda::launch(count<std::uint16_t>, grid, block, queue, values, static_cast<const std::uint16_t*>(labels),
                        voxels, counts, rows, bins, first);
  }
  return cuda::launch(count<std::uint8_t>, grid, block, queue, values, static_cast<const std::uint8_t*>(labels), voxels,
                      counts, rows, bins, first);
}

int ctfast_cuda_medians(const uint32_t* counts, int64_t rows, int64_t bins, int64_t first, float* medians,
                        int64_t* counted, void* stream) {
  if (rows < 1) return 0;
  return cuda::launch_together(find, dim3(static_cast<unsigned>(rows)), dim3(cuda::kThreads),
                               static_cast<cuda::Stream>(stream), counts, bins, first, medians, counted);
}
