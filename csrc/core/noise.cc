#include "noise.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numbers>
#include <string>

#include "error.h"

namespace ctfast {
namespace {

constexpr std::size_t kLanes = 4;  // normals per block
constexpr int kRounds = 10;

constexpr std::uint32_t low(std::uint64_t value) { return static_cast<std::uint32_t>(value); }
constexpr std::uint32_t high(std::uint64_t value) { return static_cast<std::uint32_t>(value >> 32U); }

// Two independent normals from two words. The half keeps the logarithm's argument inside (0, 1).
void box_muller(std::uint32_t radius_word, std::uint32_t angle_word, float* pair) {
  constexpr double kUnit = 0x1p-32;
  const double radius = std::sqrt(-2.0 * std::log((static_cast<double>(radius_word) + 0.5) * kUnit));
  const double angle = 2.0 * std::numbers::pi * static_cast<double>(angle_word) * kUnit;
  pair[0] = static_cast<float>(radius * std::cos(angle));
  pair[1] = static_cast<float>(radius * std::sin(angle));
}

std::array<float, kLanes> normal_block(std::uint64_t seed, std::uint64_t stream, std::uint64_t block) {
  const auto words = philox4x32({low(block), high(block), low(stream), high(stream)}, {low(seed), high(seed)});
  std::array<float, kLanes> normals{};
  box_muller(words[0], words[1], normals.data());
  box_muller(words[2], words[3], normals.data() + 2);
  return normals;
}

}  // namespace

std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key) {
  constexpr std::uint64_t kMultiplier0 = 0xD2511F53U;
  constexpr std::uint64_t kMultiplier1 = 0xCD9E8D57U;
  constexpr std::uint32_t kWeyl0 = 0x9E3779B9U;  // golden ratio
  constexpr std::uint32_t kWeyl1 = 0xBB67AE85U;  // sqrt(3) - 1
  for (int round = 0; round < kRounds; ++round) {
    const std::uint64_t product0 = kMultiplier0 * counter[0];
    const std::uint64_t product1 = kMultiplier1 * counter[2];
    counter = {high(product1) ^ counter[1] ^ key[0], low(product1), high(product0) ^ counter[3] ^ key[1],
               low(product0)};
    key[0] += kWeyl0;
    key[1] += kWeyl1;
  }
  return counter;
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
    const auto block = normal_block(seed, sample, index / kLanes);
    std::copy_n(block.begin() + static_cast<std::ptrdiff_t>(lane), taken,
                out.begin() + static_cast<std::ptrdiff_t>(done));
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
