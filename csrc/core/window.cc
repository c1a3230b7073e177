#include "window.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "error.h"

namespace ctfast {
namespace {

std::vector<std::int64_t> axis_starts(std::int64_t volume, std::int64_t window, double overlap) {
  const std::int64_t step =
      std::max<std::int64_t>(1, static_cast<std::int64_t>(static_cast<double>(window) * (1.0 - overlap)));
  std::vector<std::int64_t> starts;
  for (std::int64_t start = 0;; start += step) {
    starts.push_back(std::min(start, volume - window));
    if (start + window >= volume) return starts;
  }
}

}  // namespace

WindowPlan plan_windows(const Extent3& volume, const Extent3& window, double overlap) {
  if (!(overlap >= 0.0 && overlap < 1.0)) {
    throw Error(ErrorKind::request, "expected a window overlap from 0 to below 1, found " + std::to_string(overlap));
  }
  WindowPlan plan;
  std::array<std::vector<std::int64_t>, 3> starts;
  for (std::size_t axis = 0; axis < 3; ++axis) {
    if (volume[axis] < 1 || window[axis] < 1) {
      throw Error(ErrorKind::request, "expected positive volume and window extents, found " +
                                          std::to_string(volume[axis]) + " and " + std::to_string(window[axis]) +
                                          " on axis " + std::to_string(axis));
    }
    plan.size[axis] = std::min(volume[axis], window[axis]);
    starts[axis] = axis_starts(volume[axis], plan.size[axis], overlap);
  }
  for (const std::int64_t x : starts[0]) {
    for (const std::int64_t y : starts[1]) {
      for (const std::int64_t z : starts[2]) plan.starts.push_back({x, y, z});
    }
  }
  return plan;
}

WindowWeights gaussian_weights(const Extent3& window, double sigma_scale) {
  if (!(sigma_scale > 0.0) || !std::isfinite(sigma_scale)) {
    throw Error(ErrorKind::request, "expected a positive Gaussian width, found " + std::to_string(sigma_scale));
  }
  WindowWeights weights;
  for (std::size_t axis = 0; axis < 3; ++axis) {
    if (window[axis] < 1) {
      throw Error(ErrorKind::request, "expected positive window extents, found " + std::to_string(window[axis]) +
                                          " on axis " + std::to_string(axis));
    }
    const double sigma = static_cast<double>(window[axis]) * sigma_scale;
    const auto divisor = static_cast<float>(-2.0 * sigma * sigma);
    for (std::int64_t i = 0; i < window[axis]; ++i) {
      const auto x = static_cast<float>(static_cast<double>(i) - static_cast<double>(window[axis] - 1) / 2.0);
      const float exponent = x * x / divisor;
      weights.axis[axis].push_back(static_cast<float>(std::exp(static_cast<double>(exponent))));
    }
  }
  // The corner holds the product's minimum; with no floor yet, at() returns the product.
  weights.floor = std::max(weights.at(0, 0, 0), 1e-3F);
  return weights;
}

std::vector<float> weight_map(const WindowWeights& weights) {
  std::vector<float> map;
  const auto extent = [&](std::size_t axis) { return static_cast<std::int64_t>(weights.axis[axis].size()); };
  map.reserve(weights.axis[0].size() * weights.axis[1].size() * weights.axis[2].size());
  for (std::int64_t i = 0; i < extent(0); ++i) {
    for (std::int64_t j = 0; j < extent(1); ++j) {
      for (std::int64_t k = 0; k < extent(2); ++k) map.push_back(weights.at(i, j, k));
    }
  }
  return map;
}

}  // namespace ctfast
