#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "check.h"
#include "core/ddpm.h"
#include "core/noise.h"

using ctfast::DdimOptions;
using ctfast::DdpmSchedule;
using ctfast::ErrorKind;
using ctfast::Progress;

namespace {

using Four = std::array<float, 4>;

constexpr Four kX = {0.5F, -1.25F, 2.0F, 0.0F};
constexpr Four kPrediction = {-0.75F, 0.3F, 1.5F, -2.0F};
constexpr Four kNoise = {1.1F, -0.4F, 0.25F, -1.7F};

// MAISI's schedule.
DdpmSchedule schedule() { return ctfast::scaled_linear_schedule(1000, 0.0015, 0.0195); }

void near(const Four& found, const std::array<double, 4>& expected) {
  for (std::size_t k = 0; k < 4; ++k) CHECK_NEAR(found[k], expected[k], 1e-6 * std::max(1.0, std::abs(expected[k])));
}

// The numbers below, here and in the two step tests, are what MONAI 1.6.1 returned for the same inputs.
void monai_schedule() {
  struct Row {
    std::size_t t;
    double beta, alpha, cumprod;
  };
  const std::vector<Row> rows = {
      {0, 0.00150000013, 0.99849999, 0.99849999},       {1, 0.00150783488, 0.998492181, 0.996994436},
      {499, 0.00794515666, 0.99205482, 0.115844473},    {500, 0.00796317495, 0.992036819, 0.11492198},
      {998, 0.0194717981, 0.980528176, 0.000145133978}, {999, 0.0195000004, 0.980499983, 0.000142303863}};
  const DdpmSchedule found = schedule();
  CHECK(found.betas.size() == 1000 && found.alphas.size() == 1000 && found.alphas_cumprod.size() == 1000);
  for (const Row& row : rows) {
    CHECK_NEAR(found.betas[row.t], row.beta, 3e-7 * row.beta);
    CHECK_NEAR(found.alphas[row.t], row.alpha, 1e-7);
    CHECK_NEAR(found.alphas_cumprod[row.t], row.cumprod, 1e-6 * row.cumprod);
  }
}

void timesteps() {
  using Steps = std::vector<std::int64_t>;
  CHECK(ctfast::ddpm_timesteps(schedule(), 3) == (Steps{999, 500, 0}));
  CHECK(ctfast::ddpm_timesteps(schedule(), 7) == (Steps{999, 832, 666, 500, 333, 166, 0}));  // halves to even
  CHECK(ctfast::ddim_timesteps(schedule(), 7, 1) == (Steps{999, 833, 666, 500, 334, 167, 1}));
  CHECK(ctfast::ddim_timesteps(schedule(), 1) == (Steps{999}));
  const Steps all = ctfast::ddpm_timesteps(schedule(), 1000);
  for (std::int64_t i = 0; i < 1000; ++i) CHECK(all[static_cast<std::size_t>(i)] == 999 - i);
}

void monai_ddpm_steps() {
  const auto step = [](std::int64_t t) {
    Four x = kX;
    ctfast::ddpm_step(schedule(), t, kPrediction, t > 0 ? std::span<const float>(kNoise) : std::span<const float>(), x);
    return x;
  };
  near(step(999), {0.673324645, -1.32413387, 2.02515888, -0.198003054});
  near(step(500), {0.606485605, -1.29323232, 2.01756096, -0.134626597});
  near(step(1), {0.551199377, -1.27018178, 1.96709394, 0.00841408595});
  near(step(0), {0.529441118, -1.26255763, 1.94334972, 0.0775175616});
}

void monai_ddim_steps() {
  const auto step = [](std::int64_t t, double eta, bool one) {
    Four x = kX;
    const DdimOptions options{eta, 0, one};
    ctfast::ddim_step(schedule(), t, 20, options, kPrediction,
                      eta > 0 ? std::span<const float>(kNoise) : std::span<const float>(), x);
    return x;
  };
  near(step(999, 0.0, true), {1.25989163, -2.19222188, 2.30383158, 1.21588206});
  near(step(999, 1.0, true), {2.40471077, -2.61883044, 1.9324851, 0.640942931});
  near(step(526, 0.0, true), {0.788034797, -1.59847295, 2.0903852, 0.47189045});
  near(step(526, 1.0, true), {1.54534364, -1.87898862, 1.94825089, -0.104200065});
  near(step(0, 0.0, true), {0.529444754, -1.26256633, 1.94336319, 0.0775180981});
  near(step(0, 1.0, true), {0.529444754, -1.26256633, 1.94336319, 0.0775180981});
  near(step(0, 0.0, false), {0.5, -1.25, 2.0, 0.0});
}

// The noise a perfect denoiser predicts when every volume has the value 0.3.
void predict_point(const DdpmSchedule& s, std::span<const float> x, double t, std::span<float> noise) {
  const double cumprod = s.alphas_cumprod[static_cast<std::size_t>(t)];
  for (std::size_t k = 0; k < x.size(); ++k) {
    noise[k] = static_cast<float>((x[k] - std::sqrt(cumprod) * 0.3) / std::sqrt(1.0 - cumprod));
  }
}

void samplers_reach_the_data() {
  const DdpmSchedule s = schedule();
  const auto predict = [&](std::span<const float> x, double t, std::span<float> noise) {
    predict_point(s, x, t, noise);
  };
  std::vector<float> start(5000);  // more than one piece of noise
  ctfast::fill_normal(1, 0, 0, start);
  const auto reached = [](const std::vector<float>& x) {
    return std::all_of(x.begin(), x.end(), [](float value) { return std::abs(value - 0.3F) < 1e-3F; });
  };
  std::vector<float> x = start;
  ctfast::ddpm_sample(s, 1000, predict, 1, 0, x, {});
  CHECK(reached(x));
  for (const double eta : {0.0, 1.0}) {
    x = start;
    ctfast::ddim_sample(s, 20, {eta, 0, true}, predict, 1, 0, x, {});
    CHECK(reached(x));
  }
}

// A run is its steps, with the documented streams, in whatever pieces the noise is made.
void run_equals_steps() {
  const DdpmSchedule s = schedule();
  const auto predict = [](std::span<const float> x, double t, std::span<float> noise) {
    for (std::size_t k = 0; k < x.size(); ++k) noise[k] = 0.5F * x[k] + static_cast<float>(t) * 1e-4F;
  };
  std::vector<float> start(9001);
  ctfast::fill_normal(5, 2, 0, start);
  std::vector<float> expected = start;
  std::vector<float> noise(start.size());
  std::vector<float> prediction(start.size());
  const auto steps = ctfast::ddpm_timesteps(s, 5);
  for (std::size_t i = 0; i < steps.size(); ++i) {
    predict(expected, static_cast<double>(steps[i]), prediction);
    ctfast::fill_normal(5, ctfast::step_stream(2, static_cast<std::int64_t>(i)), 0, noise);
    ctfast::ddpm_step(s, steps[i], prediction, noise, expected);
  }
  std::vector<float> x = start;
  std::vector<std::int64_t> reports;
  ctfast::ddpm_sample(s, 5, predict, 5, 2, x, [&](const Progress& progress) {
    CHECK(progress.stage == "sample" && progress.total == 5);
    reports.push_back(progress.done);
    return true;
  });
  CHECK(x == expected);
  CHECK(reports == (std::vector<std::int64_t>{0, 1, 2, 3, 4, 5}));

  const auto ddim = [&](std::uint64_t seed, double eta) {
    std::vector<float> y = start;
    ctfast::ddim_sample(s, 5, {eta, 0, true}, predict, seed, 2, y, {});
    return y;
  };
  CHECK(ddim(5, 0.0) == ddim(6, 0.0));
  CHECK(ddim(5, 1.0) == ddim(5, 1.0));
  CHECK(ddim(5, 1.0) != ddim(6, 1.0));
}

void bad_requests() {
  const DdpmSchedule s = schedule();
  Four x = kX;
  std::vector<float> volume(4);
  const auto predict = [](std::span<const float>, double, std::span<float>) {};
  CHECK_THROWS(ErrorKind::request, "beta_start", ctfast::scaled_linear_schedule(1000, 0.0, 0.0195));
  CHECK_THROWS(ErrorKind::request, "beta_start", ctfast::scaled_linear_schedule(1000, 0.02, 0.01));
  CHECK_THROWS(ErrorKind::request, "found 0 steps", ctfast::scaled_linear_schedule(0, 0.0015, 0.0195));
  CHECK_THROWS(ErrorKind::request, "found 1001", ctfast::ddpm_timesteps(s, 1001));
  CHECK_THROWS(ErrorKind::request, "found 0", ctfast::ddim_timesteps(s, 0));
  CHECK_THROWS(ErrorKind::request, "offset", ctfast::ddim_timesteps(s, 20, 1000));
  CHECK_THROWS(ErrorKind::request, "training step", ctfast::ddpm_step(s, 1000, kPrediction, kNoise, x));
  CHECK_THROWS(ErrorKind::request, "4 and 0", ctfast::ddpm_step(s, 500, kPrediction, {}, x));
  CHECK_THROWS(ErrorKind::request, "eta", ctfast::ddim_step(s, 500, 20, {-1.0, 0, true}, kPrediction, kNoise, x));
  CHECK_THROWS(ErrorKind::request, "2^48", ctfast::ddpm_sample(s, 5, predict, 0, ctfast::kMaxSample, volume, {}));
  CHECK_THROWS(ErrorKind::cancelled, "after 3 of 5",
               ctfast::ddpm_sample(s, 5, predict, 0, 0, volume, [](const Progress& p) { return p.done < 3; }));
}

}  // namespace

int main() {
  check::test("MONAI schedule", monai_schedule);
  check::test("time steps", timesteps);
  check::test("MONAI DDPM steps", monai_ddpm_steps);
  check::test("MONAI DDIM steps", monai_ddim_steps);
  check::test("samplers reach the data", samplers_reach_the_data);
  check::test("a run equals its steps", run_equals_steps);
  check::test("bad requests", bad_requests);
  return check::finish();
}
