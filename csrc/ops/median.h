// The median of counted integers, as NumPy's: the mean of the two in the middle where their number is even.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace ctfast::ops {

// Of the values first, first + 1, ... that occur counts[0], counts[1], ... times, `total` times in all; total > 0.
CTFAST_HOST_DEVICE inline float median(const std::uint32_t* counts, std::int64_t bins, std::int64_t first,
                                       std::int64_t total) {
  const std::int64_t left = (total - 1) / 2;  // ranks, from 0, of the two in the middle: one and the same if odd
  const std::int64_t right = total / 2;
  std::int64_t seen = 0;
  std::int64_t lower = 0;
  bool found = false;
  for (std::int64_t bin = 0; bin < bins; ++bin) {
    seen += counts[bin];
    if (!found && seen > left) {
      lower = first + bin;
      found = true;
    }
    if (seen > right) return 0.5F * static_cast<float>(lower + first + bin);
  }
  return 0.0F;
}

}  // namespace ctfast::ops
