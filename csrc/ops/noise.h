// Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) and Box-Muller.
#pragma once

#include <cmath>
#include <cstdint>

#include "host_device.h"

namespace ctfast::ops {

struct PhiloxWords {
  std::uint32_t word[4];
};

// What one block of random words makes.
struct NormalBlock {
  float value[4];
};

CTFAST_HOST_DEVICE constexpr std::uint32_t low_word(std::uint64_t value) { return static_cast<std::uint32_t>(value); }
CTFAST_HOST_DEVICE constexpr std::uint32_t high_word(std::uint64_t value) {
  return static_cast<std::uint32_t>(value >> 32U);
}

// Ten rounds: 128 random bits for this counter under the key (key0, key1). Word 0 is the least significant.
CTFAST_HOST_DEVICE constexpr PhiloxWords philox4x32(PhiloxWords counter, std::uint32_t key0, std::uint32_t key1) {
  constexpr int kRounds = 10;
  constexpr std::uint64_t kMultiplier0 = 0xD2511F53U;
  constexpr std::uint64_t kMultiplier1 = 0xCD9E8D57U;
  constexpr std::uint32_t kWeyl0 = 0x9E3779B9U;  // golden ratio
  constexpr std::uint32_t kWeyl1 = 0xBB67AE85U;  // sqrt(3) - 1
  for (int round = 0; round < kRounds; ++round) {
    const std::uint64_t product0 = kMultiplier0 * counter.word[0];
    const std::uint64_t product1 = kMultiplier1 * counter.word[2];
    counter = {{high_word(product1) ^ counter.word[1] ^ key0, low_word(product1),
                high_word(product0) ^ counter.word[3] ^ key1, low_word(product0)}};
    key0 += kWeyl0;
    key1 += kWeyl1;
  }
  return counter;
}

// Two independent normals from two words, computed in double and rounded once. The half keeps the logarithm's argument
// inside (0, 1).
CTFAST_HOST_DEVICE inline void box_muller(std::uint32_t radius_word, std::uint32_t angle_word, float* pair) {
  constexpr double kUnit = 0x1p-32;
  constexpr double kTurn = 2.0 * 3.141592653589793238462643383279502884;
  const double radius = std::sqrt(-2.0 * std::log((static_cast<double>(radius_word) + 0.5) * kUnit));
  const double angle = kTurn * static_cast<double>(angle_word) * kUnit;
  pair[0] = static_cast<float>(radius * std::cos(angle));
  pair[1] = static_cast<float>(radius * std::sin(angle));
}

// Elements 4 * block to 4 * block + 3 of a stream of a seed.
CTFAST_HOST_DEVICE inline NormalBlock normal_block(std::uint64_t seed, std::uint64_t stream, std::uint64_t block) {
  const PhiloxWords words = philox4x32({{low_word(block), high_word(block), low_word(stream), high_word(stream)}},
                                       low_word(seed), high_word(seed));
  NormalBlock normals{};
  box_muller(words.word[0], words.word[1], normals.value);
  box_muller(words.word[2], words.word[3], normals.value + 2);
  return normals;
}

}  // namespace ctfast::ops
