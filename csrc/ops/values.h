// Values of activations as float32.
#pragma once

#include <cstdint>
#include <cstring>

#include "host_device.h"

namespace ctfast::ops {

CTFAST_HOST_DEVICE inline float value_of(float value) { return value; }

// Of the bits of a bfloat16.
CTFAST_HOST_DEVICE inline float value_of(std::uint16_t bits) {
  const std::uint32_t word = static_cast<std::uint32_t>(bits) << 16U;
  float value = 0.0F;
  std::memcpy(&value, &word, sizeof value);
  return value;
}

// Adds a value to a sum and its square to another.
CTFAST_HOST_DEVICE inline void add(double value, double& sum, double& square) {
  sum += value;
  square += value * value;
}

}  // namespace ctfast::ops
