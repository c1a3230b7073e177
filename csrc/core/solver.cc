#include "solver.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "error.h"
#include "ops/solver.h"

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

std::vector<SolverCall> euler(const TimeGrid& grid) {
  std::vector<SolverCall> calls;
  for (std::size_t i = 0; i < grid.t.size(); ++i) {
    calls.push_back({.step = i, .t = grid.t[i], .mix = {grid.dt[i]}});
  }
  return calls;
}

std::vector<SolverCall> heun(const TimeGrid& grid) {
  std::vector<SolverCall> calls;
  for (std::size_t i = 0; i < grid.t.size(); ++i) {
    const Step step = step_at(grid, i);
    const double half = 0.5 * step.dt;
    calls.push_back({.step = i, .t = grid.t[i], .lead = {step.dt}});
    calls.push_back({.step = i, .t = step.end * grid.train_steps, .mix = {half, half}});
  }
  return calls;
}

// Integrates the line through the last two velocities over the step.
std::vector<SolverCall> ab2(const TimeGrid& grid) {
  std::vector<SolverCall> calls;
  for (std::size_t i = 0; i < grid.t.size(); ++i) {
    const Step step = step_at(grid, i);
    const double apart = i > 0 ? step_at(grid, i - 1).s - step.s : 0.0;
    const double slope = apart > 0.0 ? 0.5 * step.dt / apart : 0.0;  // 0 is Euler: no history, or the same time twice
    calls.push_back({.step = i, .t = grid.t[i], .mix = {step.dt * (1.0 + slope), -step.dt * slope}});
  }
  return calls;
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

// Coefficients of the last two predictions in what both solvers predict with: data extrapolated to the middle of the
// step.
std::array<double, 2> predictor_weights(const Exponential& e, double s_before, const Step& step) {
  const double ratio = history_ratio(s_before, step, e.h);
  const double weight = ratio == 0.0 ? 0.0 : 0.5 / ratio;
  return {e.gain * (1.0 - weight), e.gain * weight};
}

double level_before(const TimeGrid& grid, std::size_t i) { return i > 0 ? step_at(grid, i - 1).s : 1.0; }

std::vector<SolverCall> dpmpp_2m(const TimeGrid& grid) {
  std::vector<SolverCall> calls;
  for (std::size_t i = 0; i < grid.t.size(); ++i) {
    const Step step = step_at(grid, i);
    const Exponential e = exponential(step);
    const auto [now, before] = predictor_weights(e, level_before(grid, i), step);
    calls.push_back({i, grid.t[i], 1.0, step.s, e.keep, {now, before, 0.0}, 1.0, {}});
  }
  return calls;
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

// x is where the corrector has come to; y, where the network is called, lies one predicted step ahead of it.
std::vector<SolverCall> unipc(const TimeGrid& grid) {
  std::vector<SolverCall> calls;
  for (std::size_t i = 0; i < grid.t.size(); ++i) {
    const Step step = step_at(grid, i);
    SolverCall call{.step = i, .t = grid.t[i], .point = 1.0, .velocity = step.s};
    if (i > 0) {  // redo the last step, now that a prediction at its end is known
      const Step last = step_at(grid, i - 1);
      const Exponential e = exponential(last);
      const double ratio = i > 1 ? history_ratio(step_at(grid, i - 2).s, last, e.h) : 0.0;
      const CorrectorWeights w = corrector_weights(e.h, ratio, i == 1);
      call.keep = e.keep;
      call.mix = {e.gain * w.end, e.gain * (1.0 - w.older - w.end), e.gain * w.older};
    }
    const Exponential e = exponential(step);
    call.stay = e.keep;
    call.lead = predictor_weights(e, level_before(grid, i), step);
    calls.push_back(call);
  }
  return calls;
}

// How many of the latest predictions the calls mix.
std::size_t history(const std::vector<SolverCall>& calls) {
  std::size_t depth = 1;
  for (const SolverCall& call : calls) {
    if (call.mix[2] != 0.0) return 3;
    if (call.mix[1] != 0.0 || call.lead[1] != 0.0) depth = 2;
  }
  return depth;
}

bool leads(const SolverCall& call) { return call.stay != 1.0 || call.lead[0] != 0.0 || call.lead[1] != 0.0; }

ops::SolverUpdate coefficients(const SolverCall& call) {
  return {call.point, call.velocity,
          call.keep,  {call.mix[0], call.mix[1], call.mix[2]},
          call.stay,  {call.lead[0], call.lead[1]}};
}

// One call's update in the arithmetic of Real. `latest` holds as many predictions as the run mixes, on entry the
// velocity in the first. x and y may be one.
template <class Real, std::size_t depth>
void update(const SolverCall& call, std::span<Buffer> latest, std::span<float> x, std::span<float> y) {
  const ops::SolverUpdate by = coefficients(call);
  float* newest = latest[0].data();
  const float* second = latest[depth > 1 ? 1 : 0].data();
  const float* third = latest[depth > 2 ? 2 : 0].data();
  for (std::size_t k = 0; k < y.size(); ++k) {
    const ops::SolverState next =
        ops::update<Real, static_cast<int>(depth)>(by, {x[k], y[k], newest[k]}, second[k], third[k]);
    newest[k] = next.newest;
    x[k] = next.x;
    y[k] = next.y;
  }
}

}  // namespace

std::vector<SolverCall> solver_calls(Solver solver, const TimeGrid& grid) {
  check(solver, grid);
  switch (solver) {
    case Solver::euler: return euler(grid);
    case Solver::heun: return heun(grid);
    case Solver::ab2: return ab2(grid);
    case Solver::dpmpp_2m: return dpmpp_2m(grid);
    case Solver::unipc: return unipc(grid);
  }
  return {};
}

void integrate(Solver solver, const TimeGrid& grid, const Velocity& velocity, std::span<float> y,
               const Observer& observer) {
  const std::vector<SolverCall> calls = solver_calls(solver, grid);
  const std::size_t depth = history(calls);
  std::vector<Buffer> latest(depth, Buffer(y.size()));
  Buffer behind;
  std::span<float> x = y;
  if (std::ranges::any_of(calls, leads)) {
    behind.assign(y.begin(), y.end());
    x = behind;
  }
  const auto steps = static_cast<std::int64_t>(grid.t.size());
  std::int64_t reported = -1;
  for (const SolverCall& call : calls) {
    const auto step = static_cast<std::int64_t>(call.step);
    if (step != std::exchange(reported, step)) report(observer, {"sample", step, steps});
    std::ranges::rotate(latest, latest.end() - 1);  // what was newest is now second
    velocity(y, call.t, latest[0]);
    if (solver == Solver::euler) {
      update<float, 1>(call, latest, x, y);
    } else if (depth == 1) {
      update<double, 1>(call, latest, x, y);
    } else if (depth == 2) {
      update<double, 2>(call, latest, x, y);
    } else {
      update<double, 3>(call, latest, x, y);
    }
  }
  report(observer, {"sample", steps, steps});
}

}  // namespace ctfast
