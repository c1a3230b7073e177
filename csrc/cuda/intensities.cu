#include "ctfast_cuda.h"
#include "launch.h"
#include "ops/intensity.h"
#include "ops/values.h"

namespace {

using namespace ctfast;

constexpr int kTile = 32;  // voxels along both sides of a tile, turned in shared memory
constexpr int kTileRows = cuda::kThreads / kTile;
constexpr unsigned kMostTiles = 32768;  // along a grid's second and third extent

struct Map {
  float scale;
  float offset;
  float low;
  float high;
  std::int16_t air;
};

// Arrays of one shape; axis 2 is the one along which out lies closest, axis 1 (of a transposition) the image's.
template <class Value, class Label>
struct Volume {
  const Value* image;
  const Label* labels;  // may be null
  std::int16_t* out;
  std::int64_t extent[3];
  std::int64_t image_stride[3];
  std::int64_t labels_stride[3];
  std::int64_t out_stride[3];
};

__device__ void count_bad(unsigned long long found, unsigned long long* bad) {
  if (found != 0) atomicAdd(bad, found);
}

template <class Label>
__device__ std::int16_t inside_or_air(std::int16_t value, const Label* labels, std::int64_t at, std::int16_t air) {
  return labels != nullptr && labels[at] == 0 ? air : value;
}

// In the order of out; coalesced where the image lies in the same order.
template <bool nearest, class Value, class Label>
__global__ void convert(Volume<Value, Label> volume, Map map, unsigned long long* bad) {
  unsigned long long found = 0;
  const std::int64_t count = volume.extent[0] * volume.extent[1] * volume.extent[2];
  for (std::int64_t i = cuda::first_item(); i < count; i += cuda::item_stride()) {
    const std::int64_t c = i % volume.extent[2];
    const std::int64_t b = i / volume.extent[2] % volume.extent[1];
    const std::int64_t a = i / volume.extent[2] / volume.extent[1];
    const auto at = [a, b, c](const std::int64_t* stride) { return a * stride[0] + b * stride[1] + c * stride[2]; };
    const float raw = ops::value_of(volume.image[at(volume.image_stride)]);
    found += ops::finite(raw) ? 0 : 1;
    const std::int16_t value = ops::intensity<nearest>(raw, map.scale, map.offset, map.low, map.high);
    volume.out[at(volume.out_stride)] = inside_or_air(value, volume.labels, at(volume.labels_stride), map.air);
  }
  count_bad(found, bad);
}

// The image lies closest along axis 1, out along axis 2: tiles of both are turned on the chip.
template <bool nearest, class Value, class Label>
__global__ void convert_turned(Volume<Value, Label> volume, Map map, unsigned long long* bad) {
  __shared__ std::int16_t tile[kTile][kTile + 2];  // rows start in different banks
  unsigned long long found = 0;
  const auto lane = static_cast<std::int64_t>(threadIdx.x % kTile);
  const auto row = static_cast<std::int64_t>(threadIdx.x / kTile);
  for (std::int64_t a = blockIdx.z; a < volume.extent[0]; a += gridDim.z) {
    for (std::int64_t b = static_cast<std::int64_t>(blockIdx.y) * kTile; b < volume.extent[1];
         b += static_cast<std::int64_t>(gridDim.y) * kTile) {
      const std::int64_t c = static_cast<std::int64_t>(blockIdx.x) * kTile;
      for (std::int64_t r = row; r < kTile; r += kTileRows) {
        if (b + lane < volume.extent[1] && c + r < volume.extent[2]) {
          const float raw =
              ops::value_of(volume.image[a * volume.image_stride[0] + (b + lane) * volume.image_stride[1] +
                                         (c + r) * volume.image_stride[2]]);
          found += ops::finite(raw) ? 0 : 1;
          tile[r][lane] = ops::intensity<nearest>(raw, map.scale, map.offset, map.low, map.high);
        }
      }
      __syncthreads();
      for (std::int64_t r = row; r < kTile; r += kTileRows) {
        if (b + r < volume.extent[1] && c + lane < volume.extent[2]) {
          const auto at = [=](const std::int64_t* stride) {
            return a * stride[0] + (b + r) * stride[1] + (c + lane) * stride[2];
          };
          volume.out[at(volume.out_stride)] =
              inside_or_air(tile[lane][r], volume.labels, at(volume.labels_stride), map.air);
        }
      }
      __syncthreads();
    }
  }
  count_bad(found, bad);
}

// The axis of an array's smallest step, of those that have more than one voxel.
int closest(const std::int64_t* stride, const std::int64_t* extent) {
  int found = 2;
  for (int axis = 1; axis >= 0; --axis) {
    if (extent[axis] > 1 && (extent[found] == 1 || stride[axis] < stride[found])) found = axis;
  }
  return found;
}

unsigned tiles(std::int64_t extent) {
  const std::int64_t count = (extent + kTile - 1) / kTile;
  return static_cast<unsigned>(count < kMostTiles ? count : kMostTiles);
}

template <bool nearest, class Value, class Label>
int start(const Volume<Value, Label>& given, const Map& map, unsigned long long* bad, cuda::Stream stream) {
  const std::int64_t count = given.extent[0] * given.extent[1] * given.extent[2];
  if (count < 1) return 0;
  const int last = closest(given.out_stride, given.extent);
  const int image_last = closest(given.image_stride, given.extent);
  const int middle = image_last == last ? (last == 0 ? 1 : (last == 1 ? 2 : 1)) : image_last;
  const int order[3] = {3 - last - middle, middle, last};
  Volume<Value, Label> volume = given;
  for (int axis = 0; axis < 3; ++axis) {
    volume.extent[axis] = given.extent[order[axis]];
    volume.image_stride[axis] = given.image_stride[order[axis]];
    volume.labels_stride[axis] = given.labels_stride[order[axis]];
    volume.out_stride[axis] = given.out_stride[order[axis]];
  }
  if (image_last == last) {
    return cuda::launch(convert<nearest, Value, Label>, cuda::blocks_for(count), dim3(cuda::kThreads), stream, volume,
                        map, bad);
  }
  const auto across = static_cast<unsigned>((volume.extent[2] + kTile - 1) / kTile);
  const auto deep = static_cast<unsigned>(volume.extent[0] < kMostTiles ? volume.extent[0] : kMostTiles);
  return cuda::launch_together(convert_turned<nearest, Value, Label>, dim3(across, tiles(volume.extent[1]), deep),
                               dim3(cuda::kThreads), stream, volume, map, bad);
}

struct Places {
  const void* image;
  const std::int64_t* image_strides;
  const void* labels;
  const std::int64_t* labels_strides;
  std::int16_t* out;
  const std::int64_t* out_strides;
  const std::int64_t* extents;
};

template <class Value, class Label>
int with_types(const Places& places, const Map& map, bool nearest, unsigned long long* bad, cuda::Stream stream) {
  Volume<Value, Label> volume{};
  volume.image = static_cast<const Value*>(places.image);
  volume.labels = static_cast<const Label*>(places.labels);
  volume.out = places.out;
  for (int axis = 0; axis < 3; ++axis) {
    volume.extent[axis] = places.extents[axis];
    volume.image_stride[axis] = places.image_strides[axis];
    volume.labels_stride[axis] = places.labels == nullptr ? 0 : places.labels_strides[axis];
    volume.out_stride[axis] = places.out_strides[axis];
  }
  return nearest ? start<true>(volume, map, bad, stream) : start<false>(volume, map, bad, stream);
}

}  // namespace

int ctfast_cuda_intensities(const void* image, int32_t image_type, const int64_t* image_strides, const void* labels,
                            int32_t labels_type, const int64_t* labels_strides, int16_t* out,
                            const int64_t* out_strides, const int64_t* extents, float scale, float offset, float low,
                            float high, int16_t air, int32_t nearest, uint64_t* bad, void* stream) {
  const Places places{image, image_strides, labels, labels_strides, out, out_strides, extents};
  const Map map{scale, offset, low, high, air};
  auto* count = reinterpret_cast<unsigned long long*>(bad);  // what atomicAdd takes
  const auto queue = static_cast<cuda::Stream>(stream);
  const bool wide = labels_type == kUint16;
  if (image_type == kFloat32) {
    return wide ? with_types<float, std::uint16_t>(places, map, nearest != 0, count, queue)
                : with_types<float, std::uint8_t>(places, map, nearest != 0, count, queue);
  }
  return wide ? with_types<std::uint16_t, std::uint16_t>(places, map, nearest != 0, count, queue)
              : with_types<std::uint16_t, std::uint8_t>(places, map, nearest != 0, count, queue);
}
