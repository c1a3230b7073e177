// One element of a solver's update: see SolverCall in core/solver.h, whose names these are.
#pragma once

#include "host_device.h"

namespace ctfast::ops {

struct SolverUpdate {
  double point = 0.0;
  double velocity = 1.0;
  double keep = 1.0;
  double mix[3] = {0.0, 0.0, 0.0};
  double stay = 1.0;
  double lead[2] = {0.0, 0.0};
};

// An element before and after: the base x, the point y, and the prediction made there.
struct SolverState {
  float x;
  float y;
  float newest;
};

// Classifier-free guidance (Ho, Salimans, 2022).
CTFAST_HOST_DEVICE inline float guided(float conditional, float plain, float guidance) {
  return plain + guidance * (conditional - plain);
}

// In the arithmetic of Real, rounded to float where a tensor is written. `now.newest` is the velocity; second and third
// are the two predictions before, of which `depth` - 1 are looked at.
template <class Real, int depth>
CTFAST_HOST_DEVICE inline SolverState update(const SolverUpdate& call, SolverState now, float second, float third) {
  SolverState next{};
  next.newest = static_cast<float>(static_cast<Real>(call.point) * static_cast<Real>(now.y) +
                                   static_cast<Real>(call.velocity) * static_cast<Real>(now.newest));
  Real mixed = static_cast<Real>(call.keep) * static_cast<Real>(now.x) +
               static_cast<Real>(call.mix[0]) * static_cast<Real>(next.newest);
  if constexpr (depth > 1) mixed += static_cast<Real>(call.mix[1]) * static_cast<Real>(second);
  if constexpr (depth > 2) mixed += static_cast<Real>(call.mix[2]) * static_cast<Real>(third);
  next.x = static_cast<float>(mixed);
  Real ahead = static_cast<Real>(call.stay) * static_cast<Real>(next.x) +
               static_cast<Real>(call.lead[0]) * static_cast<Real>(next.newest);
  if constexpr (depth > 1) ahead += static_cast<Real>(call.lead[1]) * static_cast<Real>(second);
  next.y = static_cast<float>(ahead);
  return next;
}

}  // namespace ctfast::ops
