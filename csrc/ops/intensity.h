// One voxel from the decoder's units to the user's: see HuMap in core/epilogue.h.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>

#include "host_device.h"

namespace ctfast::ops {

constexpr float kLowest = -32768.0F;  // of int16
constexpr float kHighest = 32767.0F;

CTFAST_HOST_DEVICE constexpr float at_least(float value, float low) { return value < low ? low : value; }
CTFAST_HOST_DEVICE constexpr float at_most(float value, float high) { return high < value ? high : value; }

// Adding and taking away 1.5 * 2^23 rounds |value| < 2^22 to the nearest integer, ties to even, and unlike a call of
// nearbyint compiles to vector code on every target.
CTFAST_HOST_DEVICE inline float round_nearest(float value) {
  constexpr float kMagic = 12582912.0F;
  return (value + kMagic) - kMagic;
}

CTFAST_HOST_DEVICE inline bool finite(float value) { return std::fabs(value) <= FLT_MAX; }

// low and high are within int16. What is not finite counts as 0. Branch-free, so that loops over it vectorise.
template <bool nearest>
CTFAST_HOST_DEVICE inline std::int16_t intensity(float raw, float scale, float offset, float low, float high) {
  float value = (finite(raw) ? raw : 0.0F) * scale + offset;
  value = at_most(at_least(value, low), high);
  if constexpr (nearest) value = round_nearest(value);
  return static_cast<std::int16_t>(value);
}

}  // namespace ctfast::ops
