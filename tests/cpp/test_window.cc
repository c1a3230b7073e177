#include <algorithm>
#include <numeric>
#include <set>
#include <vector>

#include "check.h"
#include "core/window.h"

using ctfast::ErrorKind;
using ctfast::Extent3;
using ctfast::gaussian_weights;
using ctfast::plan_windows;
using ctfast::WindowPlan;
using ctfast::WindowWeights;

namespace {

std::vector<std::int64_t> starts_along_z(std::int64_t volume, std::int64_t window, double overlap) {
  std::vector<std::int64_t> starts;
  for (const Extent3& start : plan_windows({1, 1, volume}, {1, 1, window}, overlap).starts) starts.push_back(start[2]);
  return starts;
}

void starts() {
  using Starts = std::vector<std::int64_t>;
  CHECK(starts_along_z(128, 80, 0.4) == (Starts{0, 48}));
  CHECK(starts_along_z(64, 48, 0.6666) == (Starts{0, 16}));
  CHECK(starts_along_z(128, 64, 0.4) == (Starts{0, 38, 64}));  // the last one shifted back
  CHECK(starts_along_z(10, 10, 0.4) == (Starts{0}));
  CHECK(starts_along_z(10, 16, 0.4) == (Starts{0}));
  CHECK(starts_along_z(5, 2, 0.9) == (Starts{0, 1, 2, 3}));  // at least one voxel further each time
  CHECK(starts_along_z(7, 3, 0.0) == (Starts{0, 3, 4}));
}

// The numbers of windows of the official presets.
void preset_counts() {
  CHECK(plan_windows({64, 64, 64}, {48, 48, 48}, 0.6666).starts.size() == 8);
  CHECK(plan_windows({64, 64, 64}, {48, 48, 64}, 0.6666).starts.size() == 4);
  CHECK(plan_windows({128, 128, 32}, {64, 64, 32}, 0.5).starts.size() == 9);
  CHECK(plan_windows({128, 128, 128}, {64, 64, 48}, 0.4).starts.size() == 36);
  CHECK(plan_windows({128, 128, 128}, {80, 80, 48}, 0.4).starts.size() == 16);
  CHECK(plan_windows({128, 128, 192}, {80, 80, 96}, 0.4).starts.size() == 12);
}

void order_and_size() {
  const WindowPlan plan = plan_windows({5, 3, 4}, {3, 9, 2}, 0.0);
  CHECK((plan.size == Extent3{3, 3, 2}));
  CHECK((plan.starts == std::vector<Extent3>{{0, 0, 0}, {0, 0, 2}, {2, 0, 0}, {2, 0, 2}}));
}

void every_voxel_is_covered() {
  for (std::int64_t volume = 1; volume <= 40; ++volume) {
    for (std::int64_t window = 1; window <= 12; ++window) {
      for (const double overlap : {0.0, 0.25, 0.4, 0.6666, 0.99}) {
        std::set<std::int64_t> covered;
        for (const std::int64_t start : starts_along_z(volume, window, overlap)) {
          CHECK(start >= 0 && start + std::min(window, volume) <= volume);
          for (std::int64_t k = 0; k < std::min(window, volume); ++k) covered.insert(start + k);
        }
        CHECK(static_cast<std::int64_t>(covered.size()) == volume);
      }
    }
  }
}

// Values of MONAI 1.6.1's compute_importance_map.
void gaussian_map() {
  const WindowWeights small = gaussian_weights({6, 5, 4});
  CHECK(small.floor == 1e-3F && small.at(0, 0, 0) == 1e-3F && small.at(5, 4, 3) == 1e-3F);
  CHECK_NEAR(small.at(2, 2, 1), 0.485671788, 1e-7);
  CHECK_NEAR(small.at(3, 2, 2), 0.485671788, 1e-7);
  CHECK_NEAR(small.at(1, 2, 1), 0.0820849985, 1e-8);
  CHECK_NEAR(small.at(0, 2, 1), 0.00234479969, 1e-9);
  CHECK_NEAR(small.at(2, 0, 1), 0.00290238624, 1e-9);

  const WindowWeights preset = gaussian_weights({80, 80, 48});
  CHECK_NEAR(preset.at(20, 30, 10), 0.00756857917, 1e-9);
  const std::vector<float> map = weight_map(preset);
  CHECK(map.size() == 307200);
  CHECK(map[(20 * 80 + 30) * 48 + 10] == preset.at(20, 30, 10));
  CHECK_NEAR(std::accumulate(map.begin(), map.end(), 0.0), 9597.98179802, 1e-3);
  CHECK(*std::min_element(map.begin(), map.end()) == 1e-3F);

  const WindowWeights tiny = gaussian_weights({2, 1, 2});  // its smallest value is above 1e-3: nothing is cut
  for (const float weight : weight_map(tiny)) CHECK_NEAR(weight, 0.0183156393, 1e-8);
  CHECK_NEAR(tiny.floor, 0.0183156393, 1e-8);
}

void bad_requests() {
  CHECK_THROWS(ErrorKind::request, "overlap", plan_windows({8, 8, 8}, {4, 4, 4}, 1.0));
  CHECK_THROWS(ErrorKind::request, "overlap", plan_windows({8, 8, 8}, {4, 4, 4}, -0.1));
  CHECK_THROWS(ErrorKind::request, "on axis 1", plan_windows({8, 0, 8}, {4, 4, 4}, 0.4));
  CHECK_THROWS(ErrorKind::request, "on axis 2", plan_windows({8, 8, 8}, {4, 4, 0}, 0.4));
  CHECK_THROWS(ErrorKind::request, "on axis 0", gaussian_weights({0, 4, 4}));
  CHECK_THROWS(ErrorKind::request, "Gaussian", gaussian_weights({4, 4, 4}, 0.0));
}

}  // namespace

int main() {
  check::test("starts", starts);
  check::test("preset counts", preset_counts);
  check::test("order and size", order_and_size);
  check::test("every voxel is covered", every_voxel_is_covered);
  check::test("gaussian map", gaussian_map);
  check::test("bad requests", bad_requests);
  return check::finish();
}
