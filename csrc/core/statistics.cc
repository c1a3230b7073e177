#include "statistics.h"

#include <algorithm>
#include <cmath>

#include "error.h"
#include "ops/values.h"
#include "parallel.h"

// One function, compiled for several instruction sets; the program picks one when it starts.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__linux__)
#define CTFAST_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define CTFAST_CLONES
#endif

namespace ctfast {

namespace {

constexpr std::int64_t kLeastVoxels = 4096;  // worth a thread

constexpr std::int64_t kTile = 32;    // channels whose sums stay in registers
constexpr std::int64_t kBlock = 256;  // voxels that stay in the cache while tile after tile is added

template <typename Value>
inline __attribute__((always_inline)) void add_tile(const Value* values, std::int64_t voxels, std::int64_t channels,
                                                    std::int64_t width, double* sums, double* squares) {
  double sum[kTile] = {};
  double square[kTile] = {};
  if (width == kTile) {
    for (std::int64_t voxel = 0; voxel < voxels; ++voxel) {
      for (std::int64_t c = 0; c < kTile; ++c) {
        ops::add(static_cast<double>(ops::value_of(values[voxel * channels + c])), sum[c], square[c]);
      }
    }
  } else {
    for (std::int64_t voxel = 0; voxel < voxels; ++voxel) {
      for (std::int64_t c = 0; c < width; ++c) {
        ops::add(static_cast<double>(ops::value_of(values[voxel * channels + c])), sum[c], square[c]);
      }
    }
  }
  for (std::int64_t c = 0; c < width; ++c) {
    sums[c] += sum[c];
    squares[c] += square[c];
  }
}

template <typename Value>
inline __attribute__((always_inline)) void add_rows(const Value* values, std::int64_t voxels, std::int64_t channels,
                                                    double* sums, double* squares) {
  for (std::int64_t first = 0; first < voxels; first += kBlock) {
    const std::int64_t count = std::min(kBlock, voxels - first);
    for (std::int64_t c = 0; c < channels; c += kTile) {
      add_tile(values + first * channels + c, count, channels, std::min(kTile, channels - c), sums + c, squares + c);
    }
  }
}

CTFAST_CLONES void add_f32(const float* values, std::int64_t voxels, std::int64_t channels, double* sums,
                           double* squares) {
  add_rows(values, voxels, channels, sums, squares);
}

CTFAST_CLONES void add_bf16(const std::uint16_t* values, std::int64_t voxels, std::int64_t channels, double* sums,
                            double* squares) {
  add_rows(values, voxels, channels, sums, squares);
}

}  // namespace

ChannelSums::ChannelSums(std::int64_t channels)
    : channels_(channels),
      totals_{std::vector<double>(static_cast<std::size_t>(channels)),
              std::vector<double>(static_cast<std::size_t>(channels))} {}

void ChannelSums::add(const void* values, DType dtype, std::int64_t voxels, int threads) {
  if (dtype != DType::f32 && dtype != DType::bf16) throw Error(ErrorKind::plan, "statistics of a tensor of integers");
  const std::size_t count = static_cast<std::size_t>(channels_);
  const auto parts = static_cast<std::size_t>(std::max(threads, 1));
  std::vector<double> partial(parts * 2 * count, 0.0);
  parallel_for(voxels, threads, kLeastVoxels, [&](int part, std::int64_t first, std::int64_t last) {
    double* sums = partial.data() + static_cast<std::size_t>(part) * 2 * count;
    if (dtype == DType::f32) {
      add_f32(static_cast<const float*>(values) + first * channels_, last - first, channels_, sums, sums + count);
    } else {
      add_bf16(static_cast<const std::uint16_t*>(values) + first * channels_, last - first, channels_, sums,
               sums + count);
    }
  });
  for (std::size_t part = 0; part < parts; ++part) {
    for (std::size_t c = 0; c < count; ++c) {
      totals_.sums[c] += partial[part * 2 * count + c];
      totals_.squares[c] += partial[(part * 2 + 1) * count + c];
    }
  }
}

ScaleShift normalisation(const ChannelTotals& totals, std::int64_t voxels, const GroupNorm& norm) {
  const std::size_t channels = totals.sums.size();
  const std::size_t width = channels / static_cast<std::size_t>(norm.groups);
  const double count = static_cast<double>(voxels) * static_cast<double>(width);
  ScaleShift result{std::vector<float>(channels), std::vector<float>(channels)};
  for (std::size_t first = 0; first < channels; first += width) {
    double sum = 0.0;
    double square = 0.0;
    for (std::size_t c = first; c < first + width; ++c) {
      sum += totals.sums[c];
      square += totals.squares[c];
    }
    const double mean = sum / count;
    const double variance = std::max(square / count - mean * mean, 0.0);
    const double inverse = 1.0 / std::sqrt(variance + norm.eps);
    for (std::size_t c = first; c < first + width; ++c) {
      const double scale = static_cast<double>(norm.gamma[c]) * inverse;
      result.scale[c] = static_cast<float>(scale);
      result.shift[c] = static_cast<float>(static_cast<double>(norm.beta[c]) - mean * scale);
    }
  }
  return result;
}

}  // namespace ctfast
