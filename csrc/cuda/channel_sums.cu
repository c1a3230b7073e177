#include "ctfast_cuda.h"
#include "launch.h"
#include "ops/values.h"

namespace {

using namespace ctfast;

constexpr int kLanes = 32;  // channels of a block
constexpr int kRows = cuda::kThreads / kLanes;
constexpr std::int64_t kFewest = 256;  // voxels that are worth a block

std::int64_t channel_tiles(std::int64_t channels) { return (channels + kLanes - 1) / kLanes; }

// A block adds up kLanes channels over a slab of voxels.
template <class Value>
__global__ void add_slabs(const Value* values, std::int64_t voxels, std::int64_t channels, std::int64_t slab,
                          double* partial) {
  __shared__ double sums[kRows][kLanes];
  __shared__ double squares[kRows][kLanes];
  const unsigned lane = threadIdx.x % kLanes;
  const unsigned row = threadIdx.x / kLanes;
  const std::int64_t channel = static_cast<std::int64_t>(blockIdx.y) * kLanes + lane;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * slab;
  const std::int64_t last = first + slab < voxels ? first + slab : voxels;
  double sum = 0.0;
  double square = 0.0;
  if (channel < channels) {
    for (std::int64_t voxel = first + row; voxel < last; voxel += kRows) {
      ops::add(static_cast<double>(ops::value_of(values[voxel * channels + channel])), sum, square);
    }
  }
  sums[row][lane] = sum;
  squares[row][lane] = square;
  __syncthreads();
  if (row == 0 && channel < channels) {
    for (int other = 1; other < kRows; ++other) {
      sum += sums[other][lane];
      square += squares[other][lane];
    }
    double* place = partial + static_cast<std::int64_t>(blockIdx.x) * 2 * channels + channel;
    place[0] = sum;
    place[channels] = square;
  }
}

// Items are the 2 x channels sums.
__global__ void add_partials(const double* partial, std::int64_t slabs, std::int64_t width, double* totals) {
  for (std::int64_t i = cuda::first_item(); i < width; i += cuda::item_stride()) {
    double total = 0.0;
    for (std::int64_t slab = 0; slab < slabs; ++slab) total += partial[slab * width + i];
    totals[i] += total;
  }
}

}  // namespace

int64_t ctfast_cuda_channel_slabs(int64_t voxels, int64_t channels) {
  if (voxels < 1 || channels < 1) return 0;
  const std::int64_t wanted = (voxels + kFewest - 1) / kFewest;
  const std::int64_t most = cuda::kMostBlocks / 4 / channel_tiles(channels);
  const std::int64_t slabs = wanted < most ? wanted : (most < 1 ? 1 : most);
  const std::int64_t slab = (voxels + slabs - 1) / slabs;
  return (voxels + slab - 1) / slab;
}

int ctfast_cuda_channel_sums(const void* values, int32_t type, int64_t voxels, int64_t channels, double* partial,
                             double* totals, void* stream) {
  const std::int64_t slabs = ctfast_cuda_channel_slabs(voxels, channels);
  if (slabs == 0) return 0;
  const std::int64_t slab = (voxels + slabs - 1) / slabs;
  const auto queue = static_cast<cuda::Stream>(stream);
  const dim3 grid(static_cast<unsigned>(slabs), static_cast<unsigned>(channel_tiles(channels)), 1);
  const dim3 block(cuda::kThreads);
  const int error =
      type == kFloat32
          ? cuda::launch_together(add_slabs<float>, grid, block, queue, static_cast<const float*>(values), voxels,
                                  channels, slab, partial)
          : cuda::launch_together(add_slabs<std::uint16_t>, grid, block, queue,
                                  static_cast<const std::uint16_t*>(values), voxels, channels, slab, partial);
  if (error != 0) return error;
  return cuda::launch(add_partials, cuda::blocks_for(2 * channels), block, queue, partial, slabs, 2 * channels, totals);
}
