// The times at which a rectified-flow denoiser is called, and how far each step moves.
#pragma once

#include <cstdint>
#include <vector>

namespace ctfast {

struct TimeGrid {
  std::vector<double> t;        // decreasing, in 0..train_steps: what the denoiser is told at each step
  std::vector<double> dt;       // step towards the data in flow time (0..1): x += velocity * dt
  double train_steps = 1000.0;  // the t of pure noise
};

enum class GridMode {
  // MONAI 1.6.1's RFlowScheduler as the official scripts drive it: the voxel count is a tensor there, so the transform
  // is
  // computed in float32; t is rounded to half precision, the next t truncated to an integer.
  monai,
  // Double precision, no truncation: dt sums to t[0] / train_steps, which is 1 without an offset.
  exact,
};

struct RFlowOptions {
  std::int64_t train_steps = 1000;
  std::int64_t base_voxels = 32768;  // latent voxels at which the transform does nothing
  int spatial_dim = 3;               // 2 or 3
  bool transform = true;             // spend more steps near the noise for larger latents
  std::int64_t steps_offset = 0;     // added to every t
};

// `steps` times for a latent of `latent_voxels` spatial positions (channels not counted). Throws Error(request).
TimeGrid rflow_time_grid(int steps, std::int64_t latent_voxels, GridMode mode, const RFlowOptions& options = {});

// The exact grid of given times instead of equal steps: they begin at train_steps and fall, all above 0, and go through
// the same transform. Throws Error(request).
TimeGrid given_time_grid(const std::vector<double>& times, std::int64_t latent_voxels,
                         const RFlowOptions& options = {});

// The nearest IEEE 754 binary16 value, ties to even; infinite from 65520 on.
double round_to_half(double value);

}  // namespace ctfast
