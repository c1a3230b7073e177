#include "ctfast_cuda.h"
#include "launch.h"
#include "ops/blend.h"

namespace {

using namespace ctfast;

// Extents of a stitched volume and of one window in it.
struct Layout {
  std::int64_t volume[3];
  std::int64_t window[3];
  std::int64_t start[3];
  std::int64_t scale[3];
};

Layout layout(const std::int64_t* volume, const std::int64_t* window, const std::int64_t* start,
              const std::int64_t* scale) {
  Layout result{};
  for (int axis = 0; axis < 3; ++axis) {
    result.volume[axis] = volume[axis];
    result.window[axis] = window == nullptr ? volume[axis] : window[axis];
    result.start[axis] = start == nullptr ? 0 : start[axis];
    result.scale[axis] = scale[axis];
  }
  return result;
}

// Items are the voxels of the patch; a thread sees to all channels of one, and the first of a coarse voxel to its
// weight.
__global__ void add_window(float* out, float* total, const float* patch, const float* weights, float floor, Layout lay,
                           std::int64_t channels) {
  const std::int64_t rows[3] = {lay.window[0] * lay.scale[0], lay.window[1] * lay.scale[1],
                                lay.window[2] * lay.scale[2]};
  const std::int64_t wide[3] = {lay.volume[0] * lay.scale[0], lay.volume[1] * lay.scale[1],
                                lay.volume[2] * lay.scale[2]};
  const std::int64_t patch_voxels = rows[0] * rows[1] * rows[2];
  const std::int64_t out_voxels = wide[0] * wide[1] * wide[2];
  for (std::int64_t item = cuda::first_item(); item < patch_voxels; item += cuda::item_stride()) {
    const std::int64_t z = item % rows[2];
    const std::int64_t y = item / rows[2] % rows[1];
    const std::int64_t x = item / rows[2] / rows[1];
    const std::int64_t i = x / lay.scale[0];
    const std::int64_t j = y / lay.scale[1];
    const std::int64_t k = z / lay.scale[2];
    const float weight =
        ops::window_weight(weights[i], weights[lay.window[0] + j], weights[lay.window[0] + lay.window[1] + k], floor);
    const std::int64_t at = ((lay.start[0] * lay.scale[0] + x) * wide[1] + lay.start[1] * lay.scale[1] + y) * wide[2] +
                            lay.start[2] * lay.scale[2] + z;
    for (std::int64_t channel = 0; channel < channels; ++channel) {
      float* place = out + channel * out_voxels + at;
      *place = ops::blended(*place, patch[channel * patch_voxels + item], weight);
    }
    if (x % lay.scale[0] == 0 && y % lay.scale[1] == 0 && z % lay.scale[2] == 0) {
      total[((lay.start[0] + i) * lay.volume[1] + lay.start[1] + j) * lay.volume[2] + lay.start[2] + k] += weight;
    }
  }
}

__global__ void divide(float* out, const float* total, Layout lay, std::int64_t channels) {
  const std::int64_t wide[3] = {lay.volume[0] * lay.scale[0], lay.volume[1] * lay.scale[1],
                                lay.volume[2] * lay.scale[2]};
  const std::int64_t voxels = wide[0] * wide[1] * wide[2];
  for (std::int64_t item = cuda::first_item(); item < voxels; item += cuda::item_stride()) {
    const std::int64_t k = item % wide[2] / lay.scale[2];
    const std::int64_t j = item / wide[2] % wide[1] / lay.scale[1];
    const std::int64_t i = item / wide[2] / wide[1] / lay.scale[0];
    const float weight = total[(i * lay.volume[1] + j) * lay.volume[2] + k];
    for (std::int64_t channel = 0; channel < channels; ++channel) out[channel * voxels + item] /= weight;
  }
}

std::int64_t scaled(const std::int64_t* extent, const std::int64_t* scale) {
  return extent[0] * scale[0] * extent[1] * scale[1] * extent[2] * scale[2];
}

}  // namespace

int ctfast_cuda_stitch_add(float* out, float* total, const float* patch, const float* weights, float floor,
                           const int64_t* volume, const int64_t* window, const int64_t* start, const int64_t* scale,
                           int64_t channels, void* stream) {
  return cuda::launch(add_window, cuda::blocks_for(scaled(window, scale)), dim3(cuda::kThreads),
                      static_cast<cuda::Stream>(stream), out, total, patch, weights, floor,
                      layout(volume, window, start, scale), channels);
}

int ctfast_cuda_stitch_finish(float* out, const float* total, const int64_t* volume, const int64_t* scale,
                              int64_t channels, void* stream) {
  return cuda::launch(divide, cuda::blocks_for(scaled(volume, scale)), dim3(cuda::kThreads),
                      static_cast<cuda::Stream>(stream), out, total, layout(volume, nullptr, nullptr, scale), channels);
}
