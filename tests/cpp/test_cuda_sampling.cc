// Noise and solvers: the device's kernels against the loops of csrc/core, bit for bit.
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "core/noise.h"
#include "core/solver.h"
#include "cuda/ctfast_cuda.h"

namespace {

using Values = std::vector<float>;

bool same_bits(const Values& a, const Values& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

Values normals(std::uint64_t seed, std::uint64_t sample, std::uint64_t first, std::size_t count) {
  Values out(count);
  ctfast::fill_normal(seed, sample, first, out);
  return out;
}

void noise() {
  constexpr std::uint64_t kLast = std::numeric_limits<std::uint64_t>::max();
  constexpr float kUntouched = 99.0F;
  for (const std::uint64_t first : {std::uint64_t{0}, std::uint64_t{3}, std::uint64_t{1} << 34U, kLast - 4098}) {
    for (const std::size_t count : {1U, 2U, 5U, 1023U, 4097U}) {
      Values found(count + 1, kUntouched);
      CHECK(ctfast_cuda_noise(0x0123456789abcdefU, 0x700000005U, first, found.data(), static_cast<std::int64_t>(count),
                              nullptr) == 0);
      CHECK(found.back() == kUntouched);
      found.pop_back();
      CHECK(same_bits(found, normals(0x0123456789abcdefU, 0x700000005U, first, count)));
    }
  }
  CHECK(ctfast_cuda_noise(1, 1, 0, nullptr, 0, nullptr) == 0);
}

// A velocity that depends on where and when.
void velocity(std::span<const float> y, double t, std::span<float> v) {
  for (std::size_t k = 0; k < y.size(); ++k) v[k] = 0.3F * y[k] + static_cast<float>(t) * 0.001F;
}

std::array<double, 9> coefficients(const ctfast::SolverCall& call) {
  return {call.point,  call.velocity, call.keep,    call.mix[0], call.mix[1],
          call.mix[2], call.stay,     call.lead[0], call.lead[1]};
}

// The loop that a device runs.
Values on_device(ctfast::Solver solver, const ctfast::TimeGrid& grid, Values y) {
  Values x = y;
  const auto count = static_cast<std::int64_t>(y.size());
  std::array<Values, 3> latest{Values(y.size()), Values(y.size()), Values(y.size())};
  const bool euler = solver == ctfast::Solver::euler;
  for (const ctfast::SolverCall& call : ctfast::solver_calls(solver, grid)) {
    std::swap(latest[1], latest[2]);
    std::swap(latest[0], latest[1]);
    Values v(y.size());
    velocity(y, call.t, v);
    CHECK(ctfast_cuda_solver_update(coefficients(call).data(), euler ? y.data() : x.data(), y.data(), v.data(), nullptr,
                                    0.0F, euler ? nullptr : latest[0].data(), euler ? nullptr : latest[1].data(),
                                    euler ? nullptr : latest[2].data(), count, euler ? 0 : 1, nullptr) == 0);
  }
  return y;
}

void solvers() {
  ctfast::TimeGrid grid;
  grid.train_steps = 1000.0;
  constexpr int kSteps = 5;
  for (int i = 0; i < kSteps; ++i) {
    grid.t.push_back(1000.0 * (kSteps - i) / kSteps);
    grid.dt.push_back(1.0 / kSteps);
  }
  for (const std::size_t count : {1U, 257U, 1031U}) {
    const Values start = normals(4, 2, 0, count);
    for (const auto solver : {ctfast::Solver::euler, ctfast::Solver::heun, ctfast::Solver::ab2,
                              ctfast::Solver::dpmpp_2m, ctfast::Solver::unipc}) {
      Values wanted = start;
      ctfast::integrate(solver, grid, velocity, wanted, {});
      CHECK(same_bits(on_device(solver, grid, start), wanted));
    }
  }
}

void guidance() {
  const Values conditional = normals(1, 0, 0, 600);
  const Values plain = normals(1, 1, 0, 600);
  Values y = normals(1, 2, 0, 600);
  Values wanted(600);
  for (std::size_t k = 0; k < 600; ++k) {
    const float v = plain[k] + 2.5F * (conditional[k] - plain[k]);
    wanted[k] = y[k] + 0.1F * v;
  }
  const std::array<double, 9> euler = {0.0, 1.0, 1.0, 0.1, 0.0, 0.0, 1.0, 0.0, 0.0};
  CHECK(ctfast_cuda_solver_update(euler.data(), y.data(), y.data(), conditional.data(), plain.data(), 2.5F, nullptr,
                                  nullptr, nullptr, 600, 0, nullptr) == 0);
  CHECK(same_bits(y, wanted));
}

void library() {
  CHECK(ctfast_cuda_interface() == kCudaInterface);
  CHECK(std::string(ctfast_cuda_error(0)) == "no error");
  std::int32_t devices = 0;
  CHECK(ctfast_cuda_devices(&devices) == 0 && devices == 1);
}

}  // namespace

int main() {
  check::test("library", library);
  check::test("noise", noise);
  check::test("solvers", solvers);
  check::test("guidance", guidance);
  return check::finish();
}
