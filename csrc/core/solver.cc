#include "solver.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "error.h"

namespace ctfast {
namespace {

using Buffer = std::vector<float>;

// One step in flow time: from s to end = s - dt. s may differ from the previous step's end on a truncated grid.
struct Step {
  double s = 0.0;
  double dt = 0.0;
  double end = 0.0;
};

void check(Solver solver, const TimeGrid& grid) {
  if (grid.t.empty() || grid.t.size() != grid.dt.size() || !(grid.train_steps > 0.0)) {
    throw Error(ErrorKind::request,
                "expected a time grid with as many times as steps and positive train_steps, found " +
                    std::to_string(grid.t.size()) + " times and " + std::to_string(grid.dt.size()) + " steps");
  }
  // Euler has no use for a noise level, so an offset may carry it above 1; the others need one to work with.
  const double highest = solver == Solver::euler ? HUGE_VAL : grid.train_steps;
  for (std::size_t i = 0; i < grid.t.size(); ++i) {
    const double t = grid.t[i];
    const double reach = t - grid.dt[i] * grid.train_steps;
    constexpr double kSlack = 1e-6;
    if (!(t > 0.0 && t <= highest && std::isfinite(t)) || !(grid.dt[i] >= 0.0 && reach >= -kSlack * grid.train_steps) ||
        (i > 0 && t > grid.t[i - 1])) {
      throw Error(ErrorKind::request, "expected times that fall from at most " + std::to_string(grid.train_steps) +
                                          " and steps that do not pass 0, found t = " + std::to_string(t) +
                                          ", dt = " + std::to_string(grid.dt[i]) + " at step " + std::to_string(i) +
                                          "; use a grid from rflow_time_grid");
    }
  }
}

Step step_at(const TimeGrid& grid, std::size_t i) {
  const double s = grid.t[i] / grid.train_steps;
  const double end = s - grid.dt[i];
  return {s, grid.dt[i], end > 1e-12 ? end : 0.0};  // what rounding leaves of 0 is 0
}

// Calls advance(i) for every step, with progress and cancellation before each.
template <class Advance>
void run(const TimeGrid& grid, const Observer& observer, Advance advance) {
  const auto total = static_cast<std::int64_t>(grid.t.size());
  for (std::int64_t i = 0; i < total; ++i) {
    report(observer, {"sample", i, total});
    advance(static_cast<std::size_t>(i));
  }
  report(observer, {"sample", total, total});
}

void euler(const TimeGrid& grid, const Velocity& velocity, std::span<float> x, const Observer& observer) {
  Buffer v(x.size());
  run(grid, observer, [&](std::size_t i) {
    velocity(x, grid.t[i], v);
    const auto dt = static_cast<float>(grid.dt[i]);
    for (std::size_t k = 0; k < x.size(); ++k) x[k] += v[k] * dt;
  });
}

void heun(const TimeGrid& grid, const Velocity& velocity, std::span<float> x, const Observer& observer) {
  Buffer first(x.size());
  Buffer second(x.size());
  Buffer ahead(x.size());
  run(grid, observer, [&](std::size_t i) {
    const Step step = step_at(grid, i);
    velocity(x, grid.t[i], first);
    for (std::size_t k = 0; k < x.size(); ++k) ahead[k] = static_cast<float>(x[k] + step.dt * first[k]);
    velocity(ahead, step.end * grid.train_steps, second);
    for (std::size_t k = 0; k < x.size(); ++k) {
      x[k] = static_cast<float>(x[k] + 0.5 * step.dt * (static_cast<double>(first[k]) + second[k]));
    }
  });
}

// Integrates the line through the last two velocities over the step.
void ab2(const TimeGrid& grid, const Velocity& velocity, std::span<float> x, const Observer& observer) {
  Buffer v(x.size());
  Buffer before(x.size());
  run(grid, observer, [&](std::size_t i) {
    const Step step = step_at(grid, i);
    velocity(x, grid.t[i], v);
    const double apart = i > 0 ? step_at(grid, i - 1).s - step.s : 0.0;
    const double slope = apart > 0.0 ? 0.5 * step.dt / apart : 0.0;  // 0 is Euler: no history, or the same time twice
    for (std::size_t k = 0; k < x.size(); ++k) {
      x[k] = static_cast<float>(x[k] + step.dt * (v[k] + slope * (static_cast<double>(v[k]) - before[k])));
    }
    std::swap(v, before);
  });
}

// --- Exponential integrators -----------------------------------------------------------------------------------------
// With alpha = 1 - s, sigma = s and lambda = log(alpha / sigma), the flow solves
//   x(end) = sigma_end / sigma * x + sigma_end * integral over lambda of e^lambda * data(lambda),
// data = x + s * v being the network's estimate of the clean volume. lambda is -inf at s = 1 and +inf at s = 0.

double log_snr(double s) { return std::log((1.0 - s) / s); }

// x(end) = keep * x + gain * (a weighted mean of data predictions); finite at both ends. If the mean is the current
// prediction this is Euler's step.
struct Exponential {
  double keep;
  double gain;
  double h;  // length in lambda, infinite if the step touches an end
};

Exponential exponential(const Step& step) {
  const double keep = step.end / step.s;
  const double gain = (1.0 - step.end) - keep * (1.0 - step.s);  // alpha_end * (1 - e^-h)
  return {keep, gain, step.dt == 0.0 ? 0.0 : log_snr(step.end) - log_snr(step.s)};
}

// (lambda_before - lambda) / h: where the previous prediction lies relative to the step. 0 means it is of no use: it is
// infinitely far, the step is infinitely long, or both were made at the same time.
double history_ratio(double s_before, const Step& step, double h) {
  if (s_before >= 1.0 || step.s >= 1.0 || !std::isfinite(h) || h == 0.0 || s_before <= step.s) return 0.0;
  return (log_snr(s_before) - log_snr(step.s)) / h;
}

void predict_data(std::span<const float> x, double s, std::span<float> velocity_to_data) {
  for (std::size_t k = 0; k < x.size(); ++k) {
    velocity_to_data[k] = static_cast<float>(x[k] + s * velocity_to_data[k]);
  }
}

// The step both solvers predict with: data extrapolated from the last two predictions to the middle of the step.
void predict_step(const Step& step, double s_before, std::span<const float> data, std::span<const float> before,
                  std::span<const float> from, std::span<float> x) {
  const Exponential e = exponential(step);
  const double ratio = history_ratio(s_before, step, e.h);
  const double weight = ratio == 0.0 ? 0.0 : 0.5 / ratio;
  for (std::size_t k = 0; k < x.size(); ++k) {
    const double mean = data[k] + weight * (static_cast<double>(before[k]) - data[k]);
    x[k] = static_cast<float>(e.keep * from[k] + e.gain * mean);
  }
}

void dpmpp_2m(const TimeGrid& grid, const Velocity& velocity, std::span<float> x, const Observer& observer) {
  Buffer data(x.size());
  Buffer before(x.size());
  run(grid, observer, [&](std::size_t i) {
    const Step step = step_at(grid, i);
    velocity(x, grid.t[i], data);
    predict_data(x, step.s, data);
    predict_step(step, i > 0 ? step_at(grid, i - 1).s : 1.0, data, before, x, x);
    std::swap(data, before);
  });
}

// Weights of the corrector's two differences, (older prediction - start) and (end - start): the solution of UniPC's
// 2 x 2 system for B(h) = e^-h - 1.
struct CorrectorWeights {
  double older = 0.0;
  double end = 0.5;  // what order 1 uses
};

CorrectorWeights corrector_weights(double h, double ratio, bool first) {
  if (first || h == 0.0) return {};
  const double z = -h;
  // phi2 = (e^z - 1) / z - 1 and phi3 = phi2 / z - 1/2, by series where the formulas cancel.
  double phi2 = z / 2.0 + z * z / 6.0 + z * z * z / 24.0;
  double phi3 = z / 6.0 + z * z / 24.0 + z * z * z / 120.0;
  if (std::abs(z) > 1e-2) {
    phi2 = std::expm1(z) / z - 1.0;
    phi3 = phi2 / z - 0.5;
  }
  const double b1 = phi2 / std::expm1(z);
  const double b2 = 2.0 * phi3 / std::expm1(z);
  if (ratio == 0.0) return {0.0, b1};
  const double rho = (b1 - b2) / (1.0 - ratio);
  return {rho / ratio, b1 - rho};
}

void unipc(const TimeGrid& grid, const Velocity& velocity, std::span<float> x, const Observer& observer) {
  Buffer data(x.size());    // prediction of this step
  Buffer before(x.size());  // of the step before
  Buffer older(x.size());   // of the one before that
  Buffer corrected(x.begin(), x.end());
  run(grid, observer, [&](std::size_t i) {
    const Step step = step_at(grid, i);
    velocity(x, grid.t[i], data);
    predict_data(x, step.s, data);
    if (i > 0) {  // redo the last step, now that a prediction at its end is known
      const Step last = step_at(grid, i - 1);
      const Exponential e = exponential(last);
      const double ratio = i > 1 ? history_ratio(step_at(grid, i - 2).s, last, e.h) : 0.0;
      const CorrectorWeights w = corrector_weights(e.h, ratio, i == 1);
      for (std::size_t k = 0; k < x.size(); ++k) {
        const double base = before[k];
        const double mean = base + w.older * (older[k] - base) + w.end * (data[k] - base);
        corrected[k] = static_cast<float>(e.keep * corrected[k] + e.gain * mean);
      }
    }
    predict_step(step, i > 0 ? step_at(grid, i - 1).s : 1.0, data, before, corrected, x);
    std::swap(older, before);
    std::swap(before, data);
  });
}

}  // namespace

void integrate(Solver solver, const TimeGrid& grid, const Velocity& velocity, std::span<float> x,
               const Observer& observer) {
  check(solver, grid);
  switch (solver) {
    case Solver::euler: return euler(grid, velocity, x, observer);
    case Solver::heun: return heun(grid, velocity, x, observer);
    case Solver::ab2: return ab2(grid, velocity, x, observer);
    case Solver::dpmpp_2m: return dpmpp_2m(grid, velocity, x, observer);
    case Solver::unipc: return unipc(grid, velocity, x, observer);
  }
}

}  // namespace ctfast
