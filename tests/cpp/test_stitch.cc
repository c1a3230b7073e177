#include <cmath>
#include <vector>

#include "check.h"
#include "core/noise.h"
#include "core/stitch.h"

using ctfast::ErrorKind;
using ctfast::Extent3;
using ctfast::gaussian_weights;
using ctfast::plan_windows;
using ctfast::Stitcher;
using ctfast::WindowPlan;
using ctfast::WindowWeights;

namespace {

std::size_t volume_of(const Extent3& extent, const Extent3& scale) {
  std::size_t n = 1;
  for (std::size_t axis = 0; axis < 3; ++axis) n *= static_cast<std::size_t>(extent[axis] * scale[axis]);
  return n;
}

std::vector<float> random_patch(std::size_t window, std::size_t count) {
  std::vector<float> patch(count);
  ctfast::fill_normal(11, window, 0, patch);
  return patch;
}

// The definition, voxel by voxel: full-size weights and a full-size sum of them, both float32, windows in plan order.
std::vector<float> by_definition(const WindowPlan& plan, const WindowWeights& weights, const Extent3& volume,
                                 const Extent3& scale, std::int64_t channels) {
  const std::size_t plane = volume_of(volume, scale);
  std::vector<float> sum(plane * static_cast<std::size_t>(channels), 0.0F);
  std::vector<float> total(sum.size(), 0.0F);
  const std::size_t count = volume_of(plan.size, scale) * static_cast<std::size_t>(channels);
  for (std::size_t w = 0; w < plan.starts.size(); ++w) {
    const std::vector<float> patch = random_patch(w, count);
    std::size_t from = 0;
    for (std::int64_t c = 0; c < channels; ++c) {
      for (std::int64_t i = 0; i < plan.size[0] * scale[0]; ++i) {
        for (std::int64_t j = 0; j < plan.size[1] * scale[1]; ++j) {
          for (std::int64_t k = 0; k < plan.size[2] * scale[2]; ++k, ++from) {
            const float weight = weights.at(i / scale[0], j / scale[1], k / scale[2]);
            const std::int64_t x = plan.starts[w][0] * scale[0] + i;
            const std::int64_t y = plan.starts[w][1] * scale[1] + j;
            const std::int64_t z = plan.starts[w][2] * scale[2] + k;
            const auto to = static_cast<std::size_t>(
                ((c * volume[0] * scale[0] + x) * volume[1] * scale[1] + y) * volume[2] * scale[2] + z);
            const volatile float product = patch[from] * weight;
            sum[to] += product;
            total[to] += weight;
          }
        }
      }
    }
  }
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] /= total[i];
  return sum;
}

void equals_definition() {
  struct Case {
    Extent3 volume, window, scale;
    std::int64_t channels;
    double overlap;
  };
  for (const Case& c : {Case{{9, 7, 8}, {4, 5, 3}, {4, 4, 4}, 1, 0.4}, Case{{5, 6, 7}, {3, 6, 4}, {1, 1, 1}, 3, 0.25},
                        Case{{4, 3, 5}, {2, 2, 9}, {1, 2, 3}, 2, 0.6666}}) {
    const WindowPlan plan = plan_windows(c.volume, c.window, c.overlap);
    const WindowWeights weights = gaussian_weights(plan.size);
    std::vector<float> out(volume_of(c.volume, c.scale) * static_cast<std::size_t>(c.channels), NAN);
    Stitcher stitcher(plan, weights, c.volume, c.scale, c.channels, out);
    const std::size_t count = volume_of(plan.size, c.scale) * static_cast<std::size_t>(c.channels);
    for (std::size_t w = 0; w < plan.starts.size(); ++w) stitcher.add(w, random_patch(w, count));
    stitcher.finish();
    CHECK(plan.starts.size() > 1);
    CHECK(out == by_definition(plan, weights, c.volume, c.scale, c.channels));
  }
}

// Windows that agree give back what they agree on.
void agreement_is_kept() {
  const Extent3 volume = {6, 6, 6};
  const WindowPlan plan = plan_windows(volume, {4, 4, 4}, 0.5);
  std::vector<float> out(216);
  Stitcher stitcher(plan, gaussian_weights(plan.size), volume, {1, 1, 1}, 1, out);
  for (std::size_t w = 0; w < plan.starts.size(); ++w) stitcher.add(w, std::vector<float>(64, 3.5F));
  stitcher.finish();
  for (const float value : out) CHECK_NEAR(value, 3.5, 1e-6);
}

void bad_requests() {
  const Extent3 volume = {6, 6, 6};
  const WindowPlan plan = plan_windows(volume, {4, 6, 6}, 0.5);
  const WindowWeights weights = gaussian_weights(plan.size);
  std::vector<float> out(216);
  const std::vector<float> patch(144);
  CHECK_THROWS(ErrorKind::request, "output", Stitcher(plan, weights, volume, {2, 2, 2}, 1, out));
  CHECK_THROWS(ErrorKind::request, "weights", Stitcher(plan, gaussian_weights({6, 6, 6}), volume, {1, 1, 1}, 1, out));
  CHECK_THROWS(ErrorKind::request, "inside", Stitcher(plan, weights, {5, 6, 6}, {1, 1, 1}, 1, out));
  Stitcher stitcher(plan, weights, volume, {1, 1, 1}, 1, out);
  CHECK_THROWS(ErrorKind::request, "144 values", stitcher.add(0, out));
  stitcher.add(0, patch);
  CHECK_THROWS(ErrorKind::request, "found window 0", stitcher.add(0, patch));
  CHECK_THROWS(ErrorKind::request, "found window 2", stitcher.add(2, patch));
  CHECK_THROWS(ErrorKind::request, "1 are missing", stitcher.finish());
}

}  // namespace

int main() {
  check::test("equals the definition", equals_definition);
  check::test("agreement is kept", agreement_is_kept);
  check::test("bad requests", bad_requests);
  return check::finish();
}
