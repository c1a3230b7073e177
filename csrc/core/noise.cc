#include "noise.h"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <string>

#include "error.h"
#include "ops/noise.h"

namespace ctfast {
namespace {

constexpr std::size_t kLanes = 4;  // normals per block

}  // namespace

std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key) {
  const auto words = ops::philox4x32({{counter[0], counter[1], counter[2], counter[3]}}, key[0], key[1]);
  return std::to_array(words.word);
}

void fill_normal(std::uint64_t seed, std::uint64_t sample, std::uint64_t first, std::span<float> out) {
  if (out.size() > std::numeric_limits<std::uint64_t>::max() - first) {
    throw Error(ErrorKind::request, "expected noise indices below 2^64, found a range from " + std::to_string(first) +
                                        " of " + std::to_string(out.size()) + " elements");
  }
  std::size_t done = 0;
  while (done < out.size()) {
    const std::uint64_t index = first + done;
    const auto lane = static_cast<std::size_t>(index % kLanes);
    const std::size_t taken = std::min(kLanes - lane, out.size() - done);
    const ops::NormalBlock block = ops::normal_block(seed, sample, index / kLanes);
    std::copy_n(block.value + lane, taken, out.begin() + static_cast<std::ptrdiff_t>(done));
    done += taken;
  }
}

std::uint64_t step_stream(std::uint64_t sample, std::int64_t step) {
  constexpr std::int64_t kMaxStep = 65534;
  if (sample >= kMaxSample) {
    throw Error(ErrorKind::request,
                "expected a sample number below 2^48, found " + std::to_string(sample) + "; use a smaller one");
  }
  if (step < 0 || step > kMaxStep) {
    throw Error(ErrorKind::request, "expected a step from 0 to 65534, found " + std::to_string(step));
  }
  return ((static_cast<std::uint64_t>(step) + 1) * kMaxSample) | sample;
}

}  // namespace ctfast
