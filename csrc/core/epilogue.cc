#include "epilogue.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "error.h"
#include "ops/intensity.h"

namespace ctfast {
namespace {

void check(std::span<const float> image, const HuMap& map, std::span<const std::uint16_t> labels,
           std::span<std::int16_t> out) {
  if (out.size() != image.size() || (!labels.empty() && labels.size() != image.size())) {
    throw Error(ErrorKind::request, "expected an output and labels (or none) of " + std::to_string(image.size()) +
                                        " voxels, found " + std::to_string(out.size()) + " and " +
                                        std::to_string(labels.size()));
  }
  if (!std::isfinite(map.scale) || !std::isfinite(map.offset) || !(map.low <= map.high)) {
    throw Error(ErrorKind::request, "expected a finite intensity scale and offset and low <= high, found scale " +
                                        std::to_string(map.scale) + ", offset " + std::to_string(map.offset) +
                                        ", low " + std::to_string(map.low) + ", high " + std::to_string(map.high) +
                                        "; correct the plan");
  }
}

// Returns how many voxels are not finite. Branch-free, so that it vectorises.
template <Rounding rounding>
std::int64_t convert(std::span<const float> image, const HuMap& map, std::span<std::int16_t> out) {
  const float low = std::clamp(map.low, ops::kLowest, ops::kHighest);
  const float high = std::clamp(map.high, ops::kLowest, ops::kHighest);
  std::int64_t bad = 0;
  for (std::size_t i = 0; i < image.size(); ++i) {
    bad += ops::finite(image[i]) ? 0 : 1;
    out[i] = ops::intensity<rounding == Rounding::nearest>(image[i], map.scale, map.offset, low, high);
  }
  return bad;
}

}  // namespace

void to_hu(std::span<const float> image, const HuMap& map, std::span<const std::uint16_t> labels,
           std::span<std::int16_t> out) {
  check(image, map, labels, out);
  const std::int64_t bad = map.rounding == Rounding::nearest ? convert<Rounding::nearest>(image, map, out)
                                                             : convert<Rounding::truncate>(image, map, out);
  if (bad != 0) {
    throw Error(ErrorKind::request, "expected finite intensities from the decoder, found " + std::to_string(bad) +
                                        " of " + std::to_string(image.size()) +
                                        " voxels that are NaN or infinite; check the weights and the latent, or use a "
                                        "plan of higher precision");
  }
  for (std::size_t i = 0; i < labels.size(); ++i) out[i] = labels[i] == 0 ? map.air : out[i];
}

void label_bits(std::span<const std::uint16_t> labels, int bits, std::span<float> out) {
  if (bits < 1 || bits > 16) {
    throw Error(ErrorKind::request,
                "expected 1 to 16 label bits, found " + std::to_string(bits) + "; correct the plan");
  }
  if (out.size() != labels.size() * static_cast<std::size_t>(bits)) {
    throw Error(ErrorKind::request, "expected room for " + std::to_string(bits) + " channels of " +
                                        std::to_string(labels.size()) + " voxels, found " + std::to_string(out.size()));
  }
  std::uint32_t largest = 0;
  for (const std::uint32_t label : labels) largest = std::max(largest, label);
  const std::uint32_t limit = 1U << static_cast<std::uint32_t>(bits);
  if (largest >= limit) {
    throw Error(ErrorKind::request, "expected labels from 0 to " + std::to_string(limit - 1) + ", found " +
                                        std::to_string(largest) + "; map the mask to the plan's labels");
  }
  for (std::uint32_t bit = 0; bit < static_cast<std::uint32_t>(bits); ++bit) {
    const std::span<float> channel = out.subspan(bit * labels.size(), labels.size());
    for (std::size_t i = 0; i < labels.size(); ++i) {
      channel[i] = static_cast<float>((static_cast<std::uint32_t>(labels[i]) >> bit) & 1U);
    }
  }
}

}  // namespace ctfast
