#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "check.h"
#include "core/time_grid.h"

using ctfast::ErrorKind;
using ctfast::given_time_grid;
using ctfast::GridMode;
using ctfast::rflow_time_grid;
using ctfast::RFlowOptions;
using ctfast::TimeGrid;

namespace {

constexpr std::int64_t voxels(std::int64_t x, std::int64_t y, std::int64_t z) { return x * y * z; }

double total(const TimeGrid& grid) { return std::accumulate(grid.dt.begin(), grid.dt.end(), 0.0); }

void half_precision_rounding() {
  CHECK(ctfast::round_to_half(0.0) == 0.0);
  CHECK(ctfast::round_to_half(978.3) == 978.5);
  CHECK(ctfast::round_to_half(978.25) == 978.0);  // ties to even
  CHECK(ctfast::round_to_half(978.75) == 979.0);
  CHECK(ctfast::round_to_half(-978.25) == -978.0);
  CHECK(ctfast::round_to_half(0.1) == 0.0999755859375);
  CHECK(ctfast::round_to_half(2049.0) == 2048.0);
  CHECK(ctfast::round_to_half(65519.999) == 65504.0);
  CHECK(ctfast::round_to_half(65520.0) == std::numeric_limits<double>::infinity());
  CHECK(ctfast::round_to_half(std::ldexp(1.0, -24)) == std::ldexp(1.0, -24));  // the smallest subnormal
  CHECK(ctfast::round_to_half(std::ldexp(1.0, -25)) == 0.0);
  CHECK(ctfast::round_to_half(std::ldexp(3.0, -25)) == std::ldexp(1.0, -23));
  CHECK(std::isnan(ctfast::round_to_half(std::nan(""))));
  for (int bits = 0; bits < 1024; ++bits) {  // every number of one binade and every subnormal stays
    const double normal = std::ldexp(1024.0 + bits, -1);
    const double subnormal = std::ldexp(bits, -24);
    CHECK(ctfast::round_to_half(normal) == normal && ctfast::round_to_half(subnormal) == subnormal);
  }
}

// 30 steps as MONAI 1.6.1 printed them for the official volume sizes.
void official_table() {
  struct Row {
    std::int64_t latent;
    std::array<double, 4> first;
    std::array<double, 3> last;
    double sum;
  };
  const std::vector<Row> rows = {
      {voxels(64, 64, 32), {1000, 978.5, 957, 934.5}, {149.875, 101.8125, 51.90625}, 1.009844},
      {voxels(64, 64, 64), {1000, 983, 965.5, 947.5}, {181.875, 125, 64.5}, 1.009625},
      {voxels(96, 96, 32), {1000, 983.5, 967, 949.5}, {187.75, 129.375, 66.9375}, 1.010687},
      {voxels(96, 96, 64), {1000, 987, 973.5, 959.5}, {225.5, 157.625, 82.875}, 1.007250},
      {voxels(96, 96, 96), {1000, 988.5, 976.5, 964.5}, {250, 176.5, 93.75}, 1.007250},
      {voxels(128, 128, 32), {1000, 986.5, 972.5, 958}, {218.75, 152.5, 79.9375}, 1.008688},
      {voxels(128, 128, 64), {1000, 989.5, 978, 966}, {260.75, 184.875, 98.6875}, 1.008813},
      {voxels(128, 128, 96), {1000, 990.5, 980.5, 970.5}, {287.75, 206.125, 111.375}, 1.006750},
      {voxels(128, 128, 128), {1000, 991.5, 982.5, 973}, {307.75, 222.25, 121.1875}, 1.008687},
      {voxels(128, 128, 160), {1000, 992, 983.5, 975}, {323.75, 235.375, 129.375}, 1.008250},
      {voxels(128, 128, 192), {1000, 992.5, 984.5, 976.5}, {337.25, 246.5, 136.375}, 1.007375},
  };
  for (const Row& row : rows) {
    const TimeGrid grid = rflow_time_grid(30, row.latent, GridMode::monai);
    CHECK(grid.t.size() == 30 && grid.dt.size() == 30 && grid.train_steps == 1000.0);
    for (std::size_t i = 0; i < 4; ++i) CHECK_NEAR(grid.t[i], row.first[i], 0.0);
    for (std::size_t i = 0; i < 3; ++i) CHECK_NEAR(grid.t[27 + i], row.last[i], 0.0);
    CHECK_NEAR(total(grid), row.sum, 1e-6);
    for (std::size_t i = 0; i < 30; ++i) {
      const double next = i + 1 < 30 ? std::trunc(grid.t[i + 1]) : 0.0;
      CHECK_NEAR(grid.dt[i], (grid.t[i] - next) / 1000.0, 1e-15);
    }
  }
}

// Where float32, which the official scripts' tensor brings with it, and double round to different half numbers.
void single_precision_transform() {
  CHECK(rflow_time_grid(50, voxels(96, 96, 96), GridMode::monai).t[27] == 718.5);
  CHECK(rflow_time_grid(70, 65536, GridMode::monai).t[23] == 720.0);
  CHECK(rflow_time_grid(200, 1310720, GridMode::monai).t[113] == 725.0);
  CHECK(rflow_time_grid(100, 1024, GridMode::monai).t[76] == 90.5);
}

void options() {
  RFlowOptions plain;
  plain.transform = false;
  const TimeGrid even = rflow_time_grid(4, 0, GridMode::monai, plain);
  CHECK(even.t == (std::vector<double>{1000, 750, 500, 250}));
  CHECK(even.dt == (std::vector<double>{0.25, 0.25, 0.25, 0.25}));

  RFlowOptions offset;
  offset.steps_offset = 1;
  const TimeGrid shifted = rflow_time_grid(4, voxels(96, 96, 96), GridMode::monai, offset);
  CHECK(shifted.t == (std::vector<double>{1001, 901, 751, 501}));
  CHECK_NEAR(shifted.dt[3], 0.501, 1e-15);

  RFlowOptions flat;
  flat.spatial_dim = 2;
  flat.base_voxels = 1024;
  const TimeGrid slice = rflow_time_grid(4, voxels(64, 64, 1), GridMode::monai, flat);
  CHECK(slice.t == (std::vector<double>{1000, 857, 666.5, 400}));
  CHECK_NEAR(slice.dt[1], 0.191, 1e-15);
}

void exact_grid() {
  for (const std::int64_t latent :
       {voxels(4, 8, 8), voxels(24, 24, 16), voxels(32, 32, 32), voxels(64, 64, 32), voxels(128, 128, 192)}) {
    for (const int steps : {1, 2, 30, 1000}) {
      const TimeGrid grid = rflow_time_grid(steps, latent, GridMode::exact);
      CHECK_NEAR(total(grid), 1.0, 1e-12);
      CHECK(grid.t.front() == 1000.0);
      for (std::size_t i = 0; i < grid.t.size(); ++i) {
        CHECK(grid.dt[i] > 0.0);
        const double next = i + 1 < grid.t.size() ? grid.t[i + 1] : 0.0;
        CHECK_NEAR(grid.t[i] - 1000.0 * grid.dt[i], next, 1e-9);
      }
    }
  }
  // r = 2 at u = 1/2: 2 * 0.5 / 1.5.
  CHECK_NEAR(rflow_time_grid(2, voxels(64, 64, 64), GridMode::exact).t[1], 2000.0 / 3.0, 1e-9);
}

void given_times() {
  for (const std::int64_t latent : {voxels(24, 24, 16), voxels(64, 64, 64)}) {
    for (const bool transform : {true, false}) {
      RFlowOptions options;
      options.transform = transform;
      const TimeGrid even = given_time_grid({1000, 800, 600, 400, 200}, latent, options);
      const TimeGrid exact = rflow_time_grid(5, latent, GridMode::exact, options);
      for (std::size_t i = 0; i < even.t.size(); ++i) {
        CHECK_NEAR(even.t[i], exact.t[i], 1e-9);
        CHECK_NEAR(even.dt[i], exact.dt[i], 1e-12);
      }
    }
  }
  RFlowOptions plain;
  plain.transform = false;
  const TimeGrid grid = given_time_grid({1000, 900, 50}, 0, plain);
  CHECK(grid.t == (std::vector<double>{1000, 900, 50}));
  CHECK_NEAR(grid.dt[1], 0.85, 1e-12);
  CHECK_NEAR(grid.dt[2], 0.05, 1e-12);
  // r = 2 at u = 1/2: 2 * 0.5 / 1.5.
  CHECK_NEAR(given_time_grid({1000, 500, 1}, voxels(64, 64, 64)).t[1], 2000.0 / 3.0, 1e-9);
  CHECK_THROWS(ErrorKind::request, "1 to 1000 steps, found 0", given_time_grid({}, 32768));
  CHECK_THROWS(ErrorKind::request, "begin at 1000", given_time_grid({999, 500}, 32768));
  CHECK_THROWS(ErrorKind::request, "at step 3", given_time_grid({1000, 500, 500}, 32768));
  CHECK_THROWS(ErrorKind::request, "all above 0", given_time_grid({1000, 0}, 32768));
  CHECK_THROWS(ErrorKind::request, "found nan", given_time_grid({1000, std::nan("")}, 32768));
}

void bad_requests() {
  RFlowOptions wrong_dim;
  wrong_dim.spatial_dim = 4;
  RFlowOptions long_training;
  long_training.train_steps = 70000;
  RFlowOptions negative;
  negative.steps_offset = -1;
  RFlowOptions untrained;
  untrained.train_steps = 0;
  CHECK_THROWS(ErrorKind::request, "1 to 1000 steps, found 0", rflow_time_grid(0, 32768, GridMode::monai));
  CHECK_THROWS(ErrorKind::request, "found 1001", rflow_time_grid(1001, 32768, GridMode::exact));
  CHECK_THROWS(ErrorKind::request, "voxel counts", rflow_time_grid(30, 0, GridMode::monai));
  CHECK_THROWS(ErrorKind::request, "found 4", rflow_time_grid(30, 32768, GridMode::monai, wrong_dim));
  CHECK_THROWS(ErrorKind::request, "65504", rflow_time_grid(30, 32768, GridMode::monai, long_training));
  CHECK_THROWS(ErrorKind::request, "offset", rflow_time_grid(30, 32768, GridMode::exact, negative));
  CHECK_THROWS(ErrorKind::request, "training step", rflow_time_grid(30, 32768, GridMode::exact, untrained));
  CHECK_NEAR(total(rflow_time_grid(30, 32768, GridMode::exact, long_training)), 1.0, 1e-12);
}

}  // namespace

int main() {
  check::test("half-precision rounding", half_precision_rounding);
  check::test("official table", official_table);
  check::test("single-precision transform", single_precision_transform);
  check::test("options", options);
  check::test("exact grid", exact_grid);
  check::test("given times", given_times);
  check::test("bad requests", bad_requests);
  return check::finish();
}
