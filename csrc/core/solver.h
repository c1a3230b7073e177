// Integrates a rectified flow from noise to data. At flow time s = t / grid.train_steps the path is x = (1 - s) * data
// + s * noise, the velocity is data - noise, and a step of length dt goes from s to s - dt.
#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <span>
#include <vector>

#include "progress.h"
#include "time_grid.h"

namespace ctfast {

enum class Solver {
  euler,  // order 1, one call per step: float32 x + v * dt, as MONAI's RFlowScheduler.step
  heun,   // order 2, two calls per step (the second at the step's end, t = 0 in the last step)
  ab2,    // order 2, one call: variable-step Adams-Bashforth, Euler in the first step
  // One call per step, on the data prediction x + s * v; first order in the first step and in one that ends at s = 0.
  // They expand in log((1 - s) / s), infinite at both ends: order 2 between them, h^2 log(1/h) over the whole flow.
  dpmpp_2m,  // DPM-Solver++(2M) (Lu et al., 2022)
  unipc,     // UniPC-2 with corrector, B2(h) (Zhao et al., 2023)
};

// One network call and what becomes of its answer. Every solver here is linear, so that this is all a loop on any
// device has to do. Of a velocity v at (y, t), in this order:
//   p0 = point * y + velocity * v                                    the prediction that is kept
//   x  = keep * x + mix[0] * p0 + mix[1] * p1 + mix[2] * p2          p1, p2: those of the two calls before
//   y  = stay * x + lead[0] * p0 + lead[1] * p1                      where the next call is made
// x and y begin as the noise, p1 and p2 as zeros; y after the last call is the data.
struct SolverCall {
  std::size_t step = 0;  // of the grid
  double t = 0.0;
  double point = 0.0;
  double velocity = 1.0;
  double keep = 1.0;
  std::array<double, 3> mix{};
  double stay = 1.0;
  std::array<double, 2> lead{};
};

// Throws Error(request) on a malformed grid. Euler's calls are meant for float32 arithmetic, the others' for float64.
std::vector<SolverCall> solver_calls(Solver solver, const TimeGrid& grid);

// Writes the velocity at (x, t) to v; t is in 0..train_steps.
using Velocity = std::function<void(std::span<const float> x, double t, std::span<float> v)>;

// Replaces y, the noise at grid.t[0], by the data. Reports {"sample", i, steps} before step i and once at the end, so a
// request can be cancelled before its first network call. All solvers but Euler are meant for GridMode::exact: on a
// truncated grid they take steps of the same lengths as Euler and inherit that grid's bias.
// Throws Error(request) on a malformed grid, Error(cancelled) when the observer stops the run; y is then unfinished.
void integrate(Solver solver, const TimeGrid& grid, const Velocity& velocity, std::span<float> y,
               const Observer& observer);

}  // namespace ctfast
