#include "ddpm.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include "error.h"
#include "noise.h"

namespace ctfast {
namespace {

void check_run(const DdpmSchedule& schedule, std::int64_t steps) {
  const auto train_steps = static_cast<std::int64_t>(schedule.betas.size());
  if (steps < 1 || steps > train_steps) {
    throw Error(ErrorKind::request, "expected 1 to " + std::to_string(train_steps) + " steps, found " +
                                        std::to_string(steps) + "; choose a number in that range");
  }
}

void check_step(const DdpmSchedule& schedule, std::int64_t t, std::span<const float> prediction,
                std::span<const float> noise, std::span<float> x, bool needs_noise) {
  if (t < 0 || t >= static_cast<std::int64_t>(schedule.betas.size())) {
    throw Error(ErrorKind::request, "expected a training step from 0 to " + std::to_string(schedule.betas.size() - 1) +
                                        ", found " + std::to_string(t));
  }
  if (prediction.size() != x.size() || (needs_noise && noise.size() != x.size())) {
    throw Error(ErrorKind::request, "expected a prediction and noise of " + std::to_string(x.size()) +
                                        " values, found " + std::to_string(prediction.size()) + " and " +
                                        std::to_string(noise.size()));
  }
}

// torch.linspace in float32: counted from the nearer end.
std::vector<float> linspace(float start, float end, std::int64_t count) {
  std::vector<float> values;
  const float step = count > 1 ? (end - start) / static_cast<float>(count - 1) : 0.0F;
  for (std::int64_t i = 0; i < count; ++i) {
    const bool near_start = count == 1 || i < count / 2;
    values.push_back(near_start ? start + step * static_cast<float>(i)
                                : end - step * static_cast<float>(count - 1 - i));
  }
  return values;
}

std::vector<std::int64_t> evenly_spaced(std::int64_t highest, std::int64_t count, std::int64_t offset) {
  std::vector<std::int64_t> steps;
  for (const float value : linspace(static_cast<float>(highest), 0.0F, count)) {
    steps.push_back(static_cast<std::int64_t>(std::nearbyint(value)) + offset);
  }
  return steps;
}

// Runs `step(t, prediction part, noise part, x part)` over x in pieces, so that fresh noise needs no volume of its own.
template <class StepFunction>
void run(const std::vector<std::int64_t>& timesteps, bool noisy, const NoisePrediction& predict, std::uint64_t seed,
         std::uint64_t sample, std::span<float> x, const Observer& observer, StepFunction step) {
  constexpr std::size_t kPiece = 4096;
  std::array<float, kPiece> noise{};
  std::vector<float> prediction(x.size());
  const auto total = static_cast<std::int64_t>(timesteps.size());
  for (std::int64_t i = 0; i < total; ++i) {
    report(observer, {"sample", i, total});
    const std::int64_t t = timesteps[static_cast<std::size_t>(i)];
    predict(x, static_cast<double>(t), prediction);
    for (std::size_t first = 0; first < x.size(); first += kPiece) {
      const std::size_t length = std::min(kPiece, x.size() - first);
      const std::span<float> fresh = std::span<float>(noise).first(noisy ? length : 0);
      if (noisy) fill_normal(seed, step_stream(sample, i), first, fresh);
      step(t, std::span<const float>(prediction).subspan(first, length), fresh, x.subspan(first, length));
    }
  }
  report(observer, {"sample", total, total});
}

}  // namespace

DdpmSchedule scaled_linear_schedule(std::int64_t train_steps, double beta_start, double beta_end) {
  if (train_steps < 1 || !(beta_start > 0.0) || !(beta_end >= beta_start) || !(beta_end < 1.0)) {
    throw Error(ErrorKind::request, "expected at least 1 training step and 0 < beta_start <= beta_end < 1, found " +
                                        std::to_string(train_steps) + " steps, " + std::to_string(beta_start) +
                                        " and " + std::to_string(beta_end) + "; correct the plan");
  }
  DdpmSchedule schedule;
  double product = 1.0;  // accumulated in double, kept as float, as torch.cumprod does
  for (const float root :
       linspace(static_cast<float>(std::sqrt(beta_start)), static_cast<float>(std::sqrt(beta_end)), train_steps)) {
    const float beta = root * root;
    schedule.betas.push_back(beta);
    schedule.alphas.push_back(1.0F - beta);
    product *= static_cast<double>(schedule.alphas.back());
    schedule.alphas_cumprod.push_back(static_cast<float>(product));
  }
  return schedule;
}

std::vector<std::int64_t> ddpm_timesteps(const DdpmSchedule& schedule, std::int64_t steps) {
  check_run(schedule, steps);
  return evenly_spaced(static_cast<std::int64_t>(schedule.betas.size()) - 1, steps, 0);
}

std::vector<std::int64_t> ddim_timesteps(const DdpmSchedule& schedule, std::int64_t steps, std::int64_t steps_offset) {
  check_run(schedule, steps);
  const auto train_steps = static_cast<std::int64_t>(schedule.betas.size());
  if (steps_offset < 0 || steps_offset >= train_steps) {
    throw Error(ErrorKind::request, "expected a step offset from 0 to " + std::to_string(train_steps - 1) + ", found " +
                                        std::to_string(steps_offset));
  }
  return evenly_spaced(train_steps - 1 - steps_offset, steps, steps_offset);
}

void ddpm_step(const DdpmSchedule& schedule, std::int64_t t, std::span<const float> prediction,
               std::span<const float> noise, std::span<float> x) {
  check_step(schedule, t, prediction, noise, x, t > 0);
  const auto i = static_cast<std::size_t>(t);
  const float cumprod = schedule.alphas_cumprod[i];
  const float cumprod_before = t > 0 ? schedule.alphas_cumprod[i - 1] : 1.0F;
  const float signal = std::sqrt(cumprod);
  const float noise_part = std::sqrt(1.0F - cumprod);
  // Posterior mean and variance, equations 6 and 7 of the paper.
  const float data_weight = std::sqrt(cumprod_before) * schedule.betas[i] / (1.0F - cumprod);
  const float x_weight = std::sqrt(schedule.alphas[i]) * (1.0F - cumprod_before) / (1.0F - cumprod);
  const float variance = (1.0F - cumprod_before) / (1.0F - cumprod) * schedule.betas[i];
  const float deviation = std::sqrt(std::max(variance, 1e-20F));
  for (std::size_t k = 0; k < x.size(); ++k) {
    const float data = (x[k] - noise_part * prediction[k]) / signal;
    const float mean = data_weight * data + x_weight * x[k];
    x[k] = t > 0 ? mean + deviation * noise[k] : mean;
  }
}

void ddim_step(const DdpmSchedule& schedule, std::int64_t t, std::int64_t steps, const DdimOptions& options,
               std::span<const float> prediction, std::span<const float> noise, std::span<float> x) {
  check_run(schedule, steps);
  const auto eta = static_cast<float>(options.eta);
  if (!(eta >= 0.0F) || !std::isfinite(eta)) {
    throw Error(ErrorKind::request, "expected eta of 0 or more, found " + std::to_string(options.eta));
  }
  check_step(schedule, t, prediction, noise, x, eta > 0.0F);
  const std::int64_t before = t - static_cast<std::int64_t>(schedule.betas.size()) / steps;
  const float last = options.set_alpha_to_one ? 1.0F : schedule.alphas_cumprod.front();
  const float cumprod = schedule.alphas_cumprod[static_cast<std::size_t>(t)];
  const float cumprod_before = before >= 0 ? schedule.alphas_cumprod[static_cast<std::size_t>(before)] : last;
  const float signal = std::sqrt(cumprod);
  const float noise_part = std::sqrt(1.0F - cumprod);
  // Equations 12 and 16 of the paper. Rounding must not carry a square root below 0.
  const float variance = (1.0F - cumprod_before) / (1.0F - cumprod) * (1.0F - cumprod / cumprod_before);
  const float deviation = eta * std::sqrt(std::max(variance, 0.0F));
  const float direction = std::sqrt(std::max(1.0F - cumprod_before - deviation * deviation, 0.0F));
  const float signal_before = std::sqrt(cumprod_before);
  for (std::size_t k = 0; k < x.size(); ++k) {
    const float data = (x[k] - noise_part * prediction[k]) / signal;
    const float mean = signal_before * data + direction * prediction[k];
    x[k] = eta > 0.0F ? mean + deviation * noise[k] : mean;
  }
}

void ddpm_sample(const DdpmSchedule& schedule, std::int64_t steps, const NoisePrediction& predict, std::uint64_t seed,
                 std::uint64_t sample, std::span<float> x, const Observer& observer) {
  run(ddpm_timesteps(schedule, steps), true, predict, seed, sample, x, observer,
      [&](std::int64_t t, std::span<const float> prediction, std::span<const float> noise, std::span<float> part) {
        ddpm_step(schedule, t, prediction, noise, part);
      });
}

void ddim_sample(const DdpmSchedule& schedule, std::int64_t steps, const DdimOptions& options,
                 const NoisePrediction& predict, std::uint64_t seed, std::uint64_t sample, std::span<float> x,
                 const Observer& observer) {
  run(ddim_timesteps(schedule, steps, options.steps_offset), options.eta > 0.0, predict, seed, sample, x, observer,
      [&](std::int64_t t, std::span<const float> prediction, std::span<const float> noise, std::span<float> part) {
        ddim_step(schedule, t, steps, options, prediction, noise, part);
      });
}

}  // namespace ctfast
