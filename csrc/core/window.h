// Overlapping windows over a volume and the weights that blend them, as MONAI 1.6.1's sliding-window inference places
// and computes them (mode "gaussian").
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "ops/blend.h"

namespace ctfast {

using Extent3 = std::array<std::int64_t, 3>;

struct WindowPlan {
  std::vector<Extent3> starts;  // first voxel of each window, last axis fastest
  Extent3 size{};               // the same for all windows
};

// Windows of `window` voxels (cut to the volume where larger) every int(window * (1 - overlap)) voxels, the last one of
// an axis shifted back to end with the volume. 0 <= overlap < 1. Throws Error(request).
WindowPlan plan_windows(const Extent3& volume, const Extent3& window, double overlap);

// Blending weights max(axis0[i] * axis1[j] * axis2[k], floor). The floor cuts the product, so the map as a whole is not
// separable; kept in this form it needs three short vectors and equals the full map bit for bit.
struct WindowWeights {
  std::array<std::vector<float>, 3> axis;
  float floor = 0.0F;

  float at(std::int64_t i, std::int64_t j, std::int64_t k) const {
    return ops::window_weight(axis[0][static_cast<std::size_t>(i)], axis[1][static_cast<std::size_t>(j)],
                              axis[2][static_cast<std::size_t>(k)], floor);
  }
};

// A Gaussian centred in the window with standard deviation sigma_scale * extent along each axis, cut below at its
// smallest value or 1e-3, whichever is larger. Throws Error(request).
WindowWeights gaussian_weights(const Extent3& window, double sigma_scale = 0.125);

// The full map of weights, row-major, for a window of the size the weights were made for.
std::vector<float> weight_map(const WindowWeights& weights);

}  // namespace ctfast
