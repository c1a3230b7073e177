#include "ctfast_cuda.h"
#include "launch.h"
#include "ops/solver.h"

namespace {

using namespace ctfast;

struct Arrays {
  float* x;
  float* y;
  const float* conditional;
  const float* plain;  // null without guidance
  float* newest;       // null where no later call looks back
  const float* second;
  const float* third;
};

template <class Real, int depth>
__global__ void step(ops::SolverUpdate call, Arrays arrays, float guidance, std::int64_t count) {
  for (std::int64_t i = cuda::first_item(); i < count; i += cuda::item_stride()) {
    float velocity = arrays.conditional[i];
    if (arrays.plain != nullptr) velocity = ops::guided(velocity, arrays.plain[i], guidance);
    const float second = depth > 1 && arrays.second != nullptr ? arrays.second[i] : 0.0F;
    const float third = depth > 2 && arrays.third != nullptr ? arrays.third[i] : 0.0F;
    const ops::SolverState next = ops::update<Real, depth>(call, {arrays.x[i], arrays.y[i], velocity}, second, third);
    if (arrays.newest != nullptr) arrays.newest[i] = next.newest;
    arrays.x[i] = next.x;
    arrays.y[i] = next.y;
  }
}

template <class Real>
int launch_step(const ops::SolverUpdate& call, const Arrays& arrays, float guidance, std::int64_t count,
                cuda::Stream stream) {
  const dim3 grid = cuda::blocks_for(count);
  const dim3 block(cuda::kThreads);
  if (arrays.third != nullptr) return cuda::launch(step<Real, 3>, grid, block, stream, call, arrays, guidance, count);
  if (arrays.second != nullptr) return cuda::launch(step<Real, 2>, grid, block, stream, call, arrays, guidance, count);
  return cuda::launch(step<Real, 1>, grid, block, stream, call, arrays, guidance, count);
}

}  // namespace

int ctfast_cuda_solver_update(const double* coefficients, float* x, float* y, const float* conditional,
                              const float* plain, float guidance, float* newest, const float* second,
                              const float* third, int64_t count, int32_t wide, void* stream) {
  if (count < 1) return 0;
  const double* c = coefficients;
  const ops::SolverUpdate call{c[0], c[1], c[2], {c[3], c[4], c[5]}, c[6], {c[7], c[8]}};
  const Arrays arrays{x, y, conditional, plain, newest, second, third};
  const auto queue = static_cast<cuda::Stream>(stream);
  return wide != 0 ? launch_step<double>(call, arrays, guidance, count, queue)
                   : launch_step<float>(call, arrays, guidance, count, queue);
}
