#include <array>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "check.h"
#include "core/solver.h"

using ctfast::ErrorKind;
using ctfast::GridMode;
using ctfast::integrate;
using ctfast::Progress;
using ctfast::rflow_time_grid;
using ctfast::Solver;
using ctfast::TimeGrid;
using ctfast::Velocity;

namespace {

// Order of the enumeration.
constexpr std::array kAll = {Solver::euler, Solver::heun, Solver::ab2, Solver::dpmpp_2m, Solver::unipc};
constexpr std::array kSecondOrder = {Solver::heun, Solver::ab2, Solver::dpmpp_2m, Solver::unipc};
constexpr std::int64_t kVoxels = 262144;
constexpr std::array kNoise = {-2.1F, -0.6F, 0.0F, 0.4F, 1.7F};

std::vector<float> noise() { return {kNoise.begin(), kNoise.end()}; }

struct Problem {
  Velocity velocity;
  std::function<double(double noise)> solution;  // the data this noise flows to
};

// Data ~ N(mean, deviation^2), each coordinate by itself: the marginal at s is Gaussian with variance
// ((1 - s) deviation)^2 + s^2, the velocity is E[data - noise | x], and the flow maps quantiles to quantiles.
Problem gaussian(double mean, double deviation) {
  return {[=](std::span<const float> x, double t, std::span<float> v) {
            const double s = t / 1000.0;
            const double signal = (1.0 - s) * deviation * deviation;
            const double variance = (1.0 - s) * signal + s * s;
            for (std::size_t k = 0; k < x.size(); ++k) {
              v[k] = static_cast<float>(mean + (signal - s) / variance * (x[k] - (1.0 - s) * mean));
            }
          },
          [=](double noise) { return mean + deviation * noise; }};
}

// dx/ds = x - s, whose solutions are x = c e^s + s + 1.
Problem linear() {
  return {[](std::span<const float> x, double t, std::span<float> v) {
            for (std::size_t k = 0; k < x.size(); ++k) v[k] = static_cast<float>(t / 1000.0 - x[k]);
          },
          [](double noise) { return (noise - 2.0) * std::exp(-1.0) + 1.0; }};
}

// Root mean square error at the data end.
double error_of(Solver solver, const TimeGrid& grid, const Problem& problem) {
  std::vector<float> x = noise();
  integrate(solver, grid, problem.velocity, x, {});
  double sum = 0.0;
  for (std::size_t k = 0; k < x.size(); ++k) sum += std::pow(x[k] - problem.solution(kNoise[k]), 2.0);
  return std::sqrt(sum / static_cast<double>(x.size()));
}

double order_between(double coarse, double fine, double refinement) {
  return std::log(coarse / fine) / std::log(refinement);
}

// Over the whole flow. At both ends log(alpha / sigma) is infinite, so there the exponential integrators' steps never
// become short in the variable they expand in: their error falls like h^2 log(1/h), which on these grids measures as
// order 1.4 or more.
void orders_over_the_whole_flow() {
  for (const Problem& problem : {gaussian(-0.3, 1.8), linear()}) {
    for (const Solver solver : kAll) {
      const double coarse = error_of(solver, rflow_time_grid(64, kVoxels, GridMode::exact), problem);
      const double fine = error_of(solver, rflow_time_grid(256, kVoxels, GridMode::exact), problem);
      const double order = order_between(coarse, fine, 4.0);
      std::printf("  solver %d: order %.2f\n", static_cast<int>(solver), order);
      const bool exponential = solver == Solver::dpmpp_2m || solver == Solver::unipc;
      if (solver == Solver::euler) {
        CHECK(order > 0.95 && order < 1.05);
      } else {
        CHECK(order > (exponential ? 1.4 : 1.9));
      }
    }
  }
}

// Away from the ends, from s = 0.9 to 0.1, every solver shows its full order.
void orders_between_the_ends() {
  const double mean = 0.7;
  const double deviation = 0.5;
  const auto spread = [&](double s) { return std::hypot((1.0 - s) * deviation, s); };
  const auto error_at_stop = [&](Solver solver, int steps) {
    TimeGrid grid;
    for (int i = 0; i < steps; ++i) grid.t.push_back(900.0 - 800.0 * i / steps);
    grid.dt.assign(grid.t.size(), 0.8 / steps);
    std::vector<float> x = noise();
    integrate(solver, grid, gaussian(mean, deviation).velocity, x, {});
    double sum = 0.0;
    for (std::size_t k = 0; k < x.size(); ++k) {
      sum += std::pow(x[k] - (0.9 * mean + (kNoise[k] - 0.1 * mean) * spread(0.1) / spread(0.9)), 2.0);
    }
    return std::sqrt(sum);
  };
  for (const Solver solver : kAll) {
    const double order = order_between(error_at_stop(solver, 32), error_at_stop(solver, 128), 4.0);
    std::printf("  solver %d: order %.2f\n", static_cast<int>(solver), order);
    if (solver == Solver::euler) {
      CHECK(order > 0.9 && order < 1.1);
    } else {
      CHECK(order > 1.8);
    }
  }
}

// What the DPM-Solver++ and UniPC schedulers of diffusers 0.42.1 (flow prediction, order 2, final sigma 0) return for
// the same velocities and the same sigmas.
void diffusers_values() {
  struct Row {
    Solver solver;
    int steps;
    std::array<double, 5> data;
  };
  const std::vector<Row> rows = {
      {Solver::dpmpp_2m, 4, {0.1093079, 0.5312308, 0.7000000, 0.8125128, 1.1781793}},
      {Solver::unipc, 4, {0.0995059, 0.5284302, 0.7000000, 0.8143798, 1.1861144}},
      {Solver::dpmpp_2m, 10, {-0.2550319, 0.4271337, 0.7000000, 0.8819109, 1.4731210}},
      {Solver::unipc, 10, {-0.2657865, 0.4240609, 0.7000000, 0.8839595, 1.4818276}},
  };
  for (const Row& row : rows) {
    std::vector<float> x = noise();
    integrate(row.solver, rflow_time_grid(row.steps, kVoxels, GridMode::exact), gaussian(0.7, 0.5).velocity, x, {});
    for (std::size_t k = 0; k < x.size(); ++k) CHECK_NEAR(x[k], row.data[k], 2e-6);
  }
}

void second_order_pays_at_few_steps() {
  const TimeGrid grid = rflow_time_grid(15, kVoxels, GridMode::exact);
  const TimeGrid twice = rflow_time_grid(30, kVoxels, GridMode::exact);
  for (const Problem& problem : {gaussian(0.7, 0.5), linear()}) {
    for (const Solver solver : kSecondOrder) {
      CHECK(error_of(solver, grid, problem) < 0.5 * error_of(Solver::euler, twice, problem));
    }
  }
}

// One data point: every path is straight, so any number of steps is exact, and the prediction never moves.
void straight_paths_are_exact() {
  const double data = 0.37;
  const Problem point = {[=](std::span<const float> x, double t, std::span<float> v) {
                           for (std::size_t k = 0; k < x.size(); ++k) {
                             v[k] = static_cast<float>((data - x[k]) / (t > 0.0 ? t / 1000.0 : 1.0));
                           }
                         },
                         [=](double) { return data; }};
  for (const Solver solver : {Solver::euler, Solver::ab2, Solver::dpmpp_2m, Solver::unipc}) {
    for (const int steps : {1, 2, 3, 30, 1000}) {
      CHECK(error_of(solver, rflow_time_grid(steps, kVoxels, GridMode::exact), point) < 1e-5);
    }
  }
}

// float32 product, then float32 sum, as torch does it: a fused multiply-add would differ in the last bit.
void euler_rounds_as_monai() {
  const TimeGrid grid = {{1000.0, 700.3}, {0.2997, 0.7003}};
  std::vector<float> x(4001);
  for (std::size_t k = 0; k < x.size(); ++k) x[k] = static_cast<float>(k) / 997.0F - 2.0F;
  std::vector<float> expected = x;
  const Velocity velocity = [](std::span<const float> from, double t, std::span<float> v) {
    for (std::size_t k = 0; k < from.size(); ++k) v[k] = from[k] * static_cast<float>(t) * 1.37e-3F + 0.1F;
  };
  std::vector<float> v(x.size());
  for (std::size_t i = 0; i < 2; ++i) {
    velocity(expected, grid.t[i], v);
    for (std::size_t k = 0; k < x.size(); ++k) {
      volatile float product = v[k] * static_cast<float>(grid.dt[i]);
      expected[k] = expected[k] + product;
    }
  }
  integrate(Solver::euler, grid, velocity, x, {});
  CHECK(x == expected);
}

// With a first-order step these are all Euler; one step is one.
void one_step_is_euler() {
  const TimeGrid grid = rflow_time_grid(1, kVoxels, GridMode::exact);
  const Problem problem = gaussian(0.7, 0.5);
  std::vector<float> expected = noise();
  integrate(Solver::euler, grid, problem.velocity, expected, {});
  for (const Solver solver : {Solver::ab2, Solver::dpmpp_2m, Solver::unipc}) {
    std::vector<float> x = noise();
    integrate(solver, grid, problem.velocity, x, {});
    for (std::size_t k = 0; k < x.size(); ++k) CHECK_NEAR(x[k], expected[k], 1e-6);
  }
}

// Three steps by hand for both exponential solvers: s = 1, 0.8, 0.5, then 0. The data prediction is made a function of
// s alone, so that the coefficients are all there is to see.
void exponential_coefficients() {
  const TimeGrid grid = {{1000.0, 800.0, 500.0}, {0.2, 0.3, 0.5}};
  const auto prediction = [](double s) { return s > 0.9 ? 1.0 : s > 0.7 ? 3.0 : 4.0; };
  const Velocity velocity = [&](std::span<const float> x, double t, std::span<float> v) {
    const double s = t / 1000.0;
    v[0] = static_cast<float>((prediction(s) - x[0]) / s);
  };
  double seen = 0.0;  // x on entry to the last call
  const Velocity watched = [&](std::span<const float> x, double t, std::span<float> v) {
    if (t == 500.0) seen = x[0];
    velocity(x, t, v);
  };
  // Step 1 from s = 1: x = 0.8 * 2 + 0.2 * 1. Step 2: the history is infinitely far in lambda: 5/8 x + 3/8 * 3.
  std::vector<float> x = {2.0F};
  integrate(Solver::dpmpp_2m, grid, watched, x, {});
  CHECK_NEAR(seen, 0.625 * 1.8 + 0.375 * 3.0, 1e-6);
  CHECK_NEAR(x[0], 4.0, 1e-6);  // the step to s = 0 returns the prediction
  // UniPC corrects step 1 with weight 1/2: x = 0.8 * 2 + 0.2 * (1 + 3) / 2 = 2.0 before it predicts.
  x = {2.0F};
  integrate(Solver::unipc, grid, watched, x, {});
  CHECK_NEAR(seen, 0.625 * 2.0 + 0.375 * 3.0, 1e-6);
  CHECK_NEAR(x[0], 4.0, 1e-6);
}

// The same, further from the ends, where DPM-Solver++(2M) extrapolates: h1 = h0, so D = 1.5 m1 - 0.5 m0.
void exponential_second_order_step() {
  const auto s_at = [](double lambda) { return 1.0 / (1.0 + std::exp(lambda)); };
  const TimeGrid grid = {{1000.0 * s_at(-1.0), 1000.0 * s_at(0.0)}, {s_at(-1.0) - s_at(0.0), s_at(0.0) - s_at(1.0)}};
  const Velocity velocity = [&](std::span<const float> x, double t, std::span<float> v) {
    const double s = t / 1000.0;
    v[0] = static_cast<float>(((s > 0.6 ? 1.0 : 3.0) - x[0]) / s);
  };
  const auto advance = [&](double from, double to, double x, double mean) {
    return s_at(to) / s_at(from) * x + (1.0 - s_at(to)) * (1.0 - std::exp(from - to)) * mean;
  };
  std::vector<float> x = {2.0F};
  integrate(Solver::dpmpp_2m, grid, velocity, x, {});
  CHECK_NEAR(x[0], advance(0.0, 1.0, advance(-1.0, 0.0, 2.0, 1.0), 4.0), 1e-6);
  x = {2.0F};
  integrate(Solver::unipc, grid, velocity, x, {});
  CHECK_NEAR(x[0], advance(0.0, 1.0, advance(-1.0, 0.0, 2.0, 2.0), 4.0), 1e-6);
}

void calls_and_progress() {
  const TimeGrid grid = rflow_time_grid(6, kVoxels, GridMode::monai);
  for (const Solver solver : kAll) {
    std::vector<double> times;
    std::vector<std::int64_t> reports;
    std::vector<float> x = noise();
    integrate(
        solver, grid,
        [&](std::span<const float>, double t, std::span<float> v) {
          times.push_back(t);
          std::fill(v.begin(), v.end(), 0.0F);
        },
        x,
        [&](const Progress& progress) {
          CHECK(progress.stage == "sample" && progress.total == 6);
          reports.push_back(progress.done);
          return true;
        });
    CHECK(reports == (std::vector<std::int64_t>{0, 1, 2, 3, 4, 5, 6}));
    if (solver == Solver::heun) {
      CHECK(times.size() == 12 && times.front() == grid.t.front() && times.back() == 0.0);
    } else {
      CHECK(times == grid.t);
    }
  }
}

void cancellation() {
  for (const Solver solver : kAll) {
    int calls = 0;
    std::vector<float> x = noise();
    const auto count = [&](std::span<const float>, double, std::span<float>) { ++calls; };
    const TimeGrid grid = rflow_time_grid(6, kVoxels, GridMode::exact);
    CHECK_THROWS(ErrorKind::cancelled, "after 2 of 6",
                 integrate(solver, grid, count, x, [](const Progress& p) { return p.done < 2; }));
    CHECK(calls == (solver == Solver::heun ? 4 : 2));
  }
}

// Repeated times, a step of length 0 and steps that stop short of the next time: what truncation makes of fine grids.
void truncated_grids_stay_finite() {
  const Problem problem = gaussian(0.7, 0.5);
  for (const int steps : {2, 30, 300, 1000}) {
    const TimeGrid grid = rflow_time_grid(steps, std::int64_t{128} * 128 * 192, GridMode::monai);
    for (const Solver solver : kAll) {
      if (steps < 1000) {
        CHECK(error_of(solver, grid, problem) < (steps == 2 ? 1.0 : 0.2));
      } else {
        CHECK(std::isfinite(error_of(solver, grid, problem)));
      }
    }
  }
  const TimeGrid early_end = {{1000.0, 500.0, 0.7, 0.3}, {0.5, 0.5, 0.0007, 0.0003}};
  for (const Solver solver : kAll) CHECK(error_of(solver, early_end, problem) < 0.5);
}

// Some steps so short that the corrector's weights come from their series, and on either side of where it ends.
void tiny_steps() {
  const Problem problem = gaussian(0.7, 0.5);
  for (const double width : {1e-7, 1e-4, 2.4e-3, 2.6e-3}) {
    TimeGrid grid = rflow_time_grid(20, kVoxels, GridMode::exact);
    const double half = grid.t[10];
    const std::vector<double> extra = {half - 1000.0 * width, half - 2000.0 * width, half - 3000.0 * width};
    grid.t.insert(grid.t.begin() + 11, extra.begin(), extra.end());
    grid.dt.resize(grid.t.size());
    for (std::size_t i = 0; i < grid.t.size(); ++i) {
      grid.dt[i] = (grid.t[i] - (i + 1 < grid.t.size() ? grid.t[i + 1] : 0.0)) / 1000.0;
    }
    const double plain = error_of(Solver::unipc, rflow_time_grid(20, kVoxels, GridMode::exact), problem);
    CHECK(error_of(Solver::unipc, grid, problem) < 2.0 * plain);
  }
}

void bad_grids() {
  std::vector<float> x = noise();
  const Velocity none = [](std::span<const float>, double, std::span<float>) {};
  const auto attempt = [&](const TimeGrid& grid, Solver solver = Solver::euler) {
    integrate(solver, grid, none, x, {});
  };
  CHECK_THROWS(ErrorKind::request, "0 times", attempt({}));
  CHECK_THROWS(ErrorKind::request, "2 times and 1 steps", attempt({{1000.0, 500.0}, {0.5}}));
  CHECK_THROWS(ErrorKind::request, "at step 1", attempt({{500.0, 1000.0}, {0.5, 0.5}}));
  CHECK_THROWS(ErrorKind::request, "at step 0", attempt({{1000.0}, {-0.5}}));
  CHECK_THROWS(ErrorKind::request, "at step 0", attempt({{1000.0}, {1.5}}));
  CHECK_THROWS(ErrorKind::request, "at step 0", attempt({{std::nan("")}, {0.5}}));
  CHECK_THROWS(ErrorKind::request, "at step 0", attempt({{1001.0}, {1.001}}, Solver::unipc));
  attempt({{1001.0}, {1.001}});  // an offset grid suits Euler
}

}  // namespace

int main() {
  check::test("orders over the whole flow", orders_over_the_whole_flow);
  check::test("orders between the ends", orders_between_the_ends);
  check::test("diffusers values", diffusers_values);
  check::test("second order pays at few steps", second_order_pays_at_few_steps);
  check::test("straight paths are exact", straight_paths_are_exact);
  check::test("euler rounds as MONAI", euler_rounds_as_monai);
  check::test("one step is Euler", one_step_is_euler);
  check::test("exponential coefficients", exponential_coefficients);
  check::test("exponential second-order step", exponential_second_order_step);
  check::test("calls and progress", calls_and_progress);
  check::test("cancellation", cancellation);
  check::test("truncated grids stay finite", truncated_grids_stay_finite);
  check::test("tiny steps", tiny_steps);
  check::test("bad grids", bad_grids);
  return check::finish();
}
