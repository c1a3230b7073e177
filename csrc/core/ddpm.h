// Ancestral (DDPM, Ho et al. 2020) and implicit (DDIM, Song et al. 2021) sampling of a denoiser that predicts noise,
// with the arithmetic of MONAI 1.6.1's DDPMScheduler and DDIMScheduler: float32, no clipping, "fixed small" variance.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "progress.h"

namespace ctfast {

// Per training step, float32 as MONAI keeps them.
struct DdpmSchedule {
  std::vector<float> betas;
  std::vector<float> alphas;          // 1 - beta
  std::vector<float> alphas_cumprod;  // products of the alphas
};

struct DdimOptions {
  double eta = 0.0;               // 0: deterministic; 1: as much noise as DDPM
  std::int64_t steps_offset = 0;  // added to every time step
  bool set_alpha_to_one = true;   // the step past the last goes to alpha = 1, else to the schedule's first alpha
};

// Writes the predicted noise at (x, t) to `noise`; t is an integer training step.
using NoisePrediction = std::function<void(std::span<const float> x, double t, std::span<float> noise)>;

// beta_i = (sqrt(beta_start) .. sqrt(beta_end), evenly spaced)^2. Throws Error(request).
DdpmSchedule scaled_linear_schedule(std::int64_t train_steps, double beta_start, double beta_end);

// The training steps visited by a run of `steps` steps, decreasing. Throws Error(request).
std::vector<std::int64_t> ddpm_timesteps(const DdpmSchedule& schedule, std::int64_t steps);
std::vector<std::int64_t> ddim_timesteps(const DdpmSchedule& schedule, std::int64_t steps,
                                         std::int64_t steps_offset = 0);

// One step from training step t, in place. `noise` is fresh standard normal noise; it may be empty where none is used
// (DDPM at t = 0, DDIM with eta = 0). `steps` is the run's number of steps: DDIM goes from t to t - train_steps /
// steps. DDPM, like MONAI's, always goes from t to t - 1, so it wants as many steps as training had.
void ddpm_step(const DdpmSchedule& schedule, std::int64_t t, std::span<const float> prediction,
               std::span<const float> noise, std::span<float> x);
void ddim_step(const DdpmSchedule& schedule, std::int64_t t, std::int64_t steps, const DdimOptions& options,
               std::span<const float> prediction, std::span<const float> noise, std::span<float> x);

// Whole runs: x holds noise on entry and data on return. Step i draws from step_stream(sample, i) of `seed`. Reports
// {"sample", i, steps} before step i and once at the end.
void ddpm_sample(const DdpmSchedule& schedule, std::int64_t steps, const NoisePrediction& predict, std::uint64_t seed,
                 std::uint64_t sample, std::span<float> x, const Observer& observer);
void ddim_sample(const DdpmSchedule& schedule, std::int64_t steps, const DdimOptions& options,
                 const NoisePrediction& predict, std::uint64_t seed, std::uint64_t sample, std::span<float> x,
                 const Observer& observer);

}  // namespace ctfast
