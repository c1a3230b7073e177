// Between the networks and the user's units: intensities to int16, label maps to condition channels.
#pragma once

#include <cstdint>
#include <span>

namespace ctfast {

enum class Rounding {
  nearest,   // ties to even
  truncate,  // toward zero, as the official scripts' cast does
};

// value = clamp(image * scale + offset, low, high), in float32, then to int16 (saturating).
struct HuMap {
  float scale = 2000.0F;
  float offset = -1000.0F;
  float low = -1000.0F;
  float high = 1000.0F;  // infinity where there is no upper limit but int16's
  std::int16_t air = -1000;
  Rounding rounding = Rounding::nearest;
};

// Decoder output to intensities. Where `labels` (empty, or as long as the image) is 0 the voxel becomes `air`. Throws
// Error(request) naming how many voxels of the image are not finite; `out` is then unspecified.
void to_hu(std::span<const float> image, const HuMap& map, std::span<const std::uint16_t> labels,
           std::span<std::int16_t> out);

// Channel k of `out` (bits x labels.size(), row-major) is bit k of each label, 0.0 or 1.0. 1 <= bits <= 16. Throws
// Error(request) when a label needs more bits.
void label_bits(std::span<const std::uint16_t> labels, int bits, std::span<float> out);

}  // namespace ctfast
