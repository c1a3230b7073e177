#include "time_grid.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "error.h"

namespace ctfast {
namespace {

constexpr double kHalfMax = 65504.0;

void check(std::int64_t steps, std::int64_t latent_voxels, const RFlowOptions& options) {
  if (options.train_steps < 1) {
    throw Error(ErrorKind::request, "expected at least 1 training step, found " + std::to_string(options.train_steps) +
                                        "; correct the plan");
  }
  if (steps < 1 || steps > options.train_steps) {
    throw Error(ErrorKind::request, "expected 1 to " + std::to_string(options.train_steps) + " steps, found " +
                                        std::to_string(steps) + "; choose a number in that range");
  }
  if (options.transform && (latent_voxels < 1 || options.base_voxels < 1)) {
    throw Error(ErrorKind::request, "expected positive voxel counts for the time transform, found a latent of " +
                                        std::to_string(latent_voxels) + " and a base of " +
                                        std::to_string(options.base_voxels));
  }
  if (options.spatial_dim != 2 && options.spatial_dim != 3) {
    throw Error(ErrorKind::request, "expected 2 or 3 spatial dimensions, found " + std::to_string(options.spatial_dim) +
                                        "; correct the plan");
  }
  if (options.steps_offset < 0) {
    throw Error(ErrorKind::request,
                "expected a step offset of 0 or more, found " + std::to_string(options.steps_offset));
  }
}

// Times that begin at pure noise and fall to above 0: what the solvers and the transform need.
void check_falling(const std::vector<double>& times, std::int64_t train_steps) {
  const auto first = static_cast<double>(train_steps);
  for (std::size_t i = 0; i < times.size(); ++i) {
    const bool falls = i == 0 ? times[i] == first : times[i] < times[i - 1] && times[i] > 0.0;
    if (falls) continue;
    throw Error(ErrorKind::request, "expected times that begin at " + std::to_string(train_steps) +
                                        " and fall, all above 0, found " + std::to_string(times[i]) + " at step " +
                                        std::to_string(i + 1));
  }
}

// Equal steps, from pure noise on.
std::vector<double> even_times(std::int64_t steps, std::int64_t train_steps) {
  std::vector<double> times;
  for (std::int64_t i = 0; i < steps; ++i) {
    times.push_back((1.0 - static_cast<double>(i) / static_cast<double>(steps)) * static_cast<double>(train_steps));
  }
  return times;
}

// The times before any rounding, computed in Real as the caller's mode asks. t itself is double in both modes.
template <class Real>
std::vector<double> transformed(const std::vector<double>& even, std::int64_t latent_voxels,
                                const RFlowOptions& options) {
  if (!options.transform) return even;
  const auto train_steps = static_cast<double>(options.train_steps);
  const Real size_ratio = static_cast<Real>(latent_voxels) / static_cast<Real>(options.base_voxels);
  // The power of a float32 scalar tensor is taken in double there too.
  const Real ratio = static_cast<Real>(std::pow(static_cast<double>(size_ratio), 1.0 / options.spatial_dim));
  std::vector<double> times;
  for (const double plain : even) {
    const Real unit = static_cast<Real>(plain / train_steps);
    const Real shifted = ratio * unit / (Real{1} + (ratio - Real{1}) * unit);
    times.push_back(static_cast<double>(shifted * static_cast<Real>(train_steps)));
  }
  return times;
}

TimeGrid exact_grid(const std::vector<double>& times, std::int64_t latent_voxels, const RFlowOptions& options) {
  TimeGrid grid;
  grid.train_steps = static_cast<double>(options.train_steps);
  grid.t = transformed<double>(times, latent_voxels, options);
  // The transform's rounding can leave the first time a hair above the last step, where solvers start from.
  for (double& t : grid.t) t = std::min(t, grid.train_steps) + static_cast<double>(options.steps_offset);
  for (std::size_t i = 0; i < grid.t.size(); ++i) {
    const double next = i + 1 < grid.t.size() ? grid.t[i + 1] : 0.0;
    grid.dt.push_back((grid.t[i] - next) / grid.train_steps);
  }
  return grid;
}

TimeGrid monai_grid(const std::vector<double>& times, std::int64_t latent_voxels, const RFlowOptions& options) {
  TimeGrid grid;
  grid.train_steps = static_cast<double>(options.train_steps);
  const auto offset = static_cast<double>(options.steps_offset);
  if (grid.train_steps + offset > kHalfMax) {
    throw Error(ErrorKind::request, "expected times up to 65504, the largest half-precision number, found " +
                                        std::to_string(options.train_steps + options.steps_offset) +
                                        "; use the exact time grid");
  }
  grid.t = transformed<float>(times, latent_voxels, options);
  for (double& t : grid.t) t = round_to_half(round_to_half(t) + offset);
  for (std::size_t i = 0; i < grid.t.size(); ++i) {
    const double next = i + 1 < grid.t.size() ? std::trunc(grid.t[i + 1]) : 0.0;
    // The difference is a half-precision tensor in the original, which matters above 2048 only.
    grid.dt.push_back(round_to_half(grid.t[i] - next) / grid.train_steps);
  }
  return grid;
}

}  // namespace

double round_to_half(double value) {
  if (value == 0.0 || !std::isfinite(value)) return value;
  constexpr int kFractionBits = 10;
  constexpr int kMinExponent = -14;  // below it binary16 is subnormal: fixed spacing
  const int exponent = std::max(std::ilogb(value), kMinExponent);
  const double spacing = std::ldexp(1.0, exponent - kFractionBits);
  const double rounded = std::nearbyint(value / spacing) * spacing;  // ties to even: the default rounding mode
  return std::abs(rounded) > kHalfMax ? std::copysign(HUGE_VAL, value) : rounded;
}

TimeGrid rflow_time_grid(int steps, std::int64_t latent_voxels, GridMode mode, const RFlowOptions& options) {
  check(steps, latent_voxels, options);
  const std::vector<double> times = even_times(steps, options.train_steps);
  return mode == GridMode::monai ? monai_grid(times, latent_voxels, options)
                                 : exact_grid(times, latent_voxels, options);
}

TimeGrid given_time_grid(const std::vector<double>& times, std::int64_t latent_voxels, const RFlowOptions& options) {
  check(static_cast<std::int64_t>(times.size()), latent_voxels, options);
  check_falling(times, options.train_steps);
  return exact_grid(times, latent_voxels, options);
}

}  // namespace ctfast
