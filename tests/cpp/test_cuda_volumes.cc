// Intensities, statistics, stitching and medians: the device's kernels against csrc/core, bit for bit but for sums.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <span>
#include <vector>

#include "check.h"
#include "core/epilogue.h"
#include "core/noise.h"
#include "core/statistics.h"
#include "core/stitch.h"
#include "core/window.h"
#include "cuda/ctfast_cuda.h"

namespace {

using ctfast::Extent3;

std::vector<float> normals(std::size_t count) {
  std::vector<float> out(count);
  ctfast::fill_normal(11, 0, 0, out);
  return out;
}

std::size_t voxels(const Extent3& extent) { return static_cast<std::size_t>(extent[0] * extent[1] * extent[2]); }

// Strides of a dense array whose axes lie in `order`, the last one closest.
Extent3 strides(const Extent3& extent, const std::array<int, 3>& order) {
  Extent3 result{};
  std::int64_t step = 1;
  for (int k = 2; k >= 0; --k) {
    const auto axis = static_cast<std::size_t>(order[static_cast<std::size_t>(k)]);
    result[axis] = step;
    step *= extent[axis];
  }
  return result;
}

template <class Value>
std::vector<Value> laid_out(const std::vector<Value>& rows, const Extent3& extent, const Extent3& stride) {
  std::vector<Value> result(rows.size());
  std::size_t at = 0;
  for (std::int64_t i = 0; i < extent[0]; ++i) {
    for (std::int64_t j = 0; j < extent[1]; ++j) {
      for (std::int64_t k = 0; k < extent[2]; ++k) {
        result[static_cast<std::size_t>(i * stride[0] + j * stride[1] + k * stride[2])] = rows[at++];
      }
    }
  }
  return result;
}

constexpr std::array<std::array<int, 3>, 6> kOrders = {
    {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}}};

std::uint16_t bfloat16(float value) { return static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(value) >> 16U); }
float widened(std::uint16_t bits) { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16U); }

struct Image {
  Extent3 extent;
  std::vector<float> values;
  std::vector<std::uint16_t> labels;
};

Image image(const Extent3& extent) {
  Image result{extent, normals(voxels(extent)), std::vector<std::uint16_t>(voxels(extent))};
  for (std::size_t i = 0; i < result.labels.size(); ++i) {
    result.labels[i] = static_cast<std::uint16_t>(i % 5 == 0 ? 0 : 256 * (i % 3) + 1);
    result.values[i] = std::round(result.values[i] * 4096.0F) / 8192.0F;  // halves are among the products
  }
  return result;
}

void intensities() {
  for (const Extent3& extent : {Extent3{3, 37, 34}, Extent3{1, 1, 1}, Extent3{2, 1, 41}, Extent3{33, 2, 1}}) {
    const Image given = image(extent);
    std::vector<std::uint8_t> narrow(given.labels.size());
    std::ranges::transform(given.labels, narrow.begin(), [](std::uint16_t label) { return label != 0 ? 7 : 0; });
    std::vector<std::uint16_t> half(given.values.size());
    std::vector<float> rounded(given.values.size());
    for (std::size_t i = 0; i < half.size(); ++i) {
      half[i] = bfloat16(given.values[i]);
      rounded[i] = widened(half[i]);
    }
    for (std::size_t which = 0; which < kOrders.size() * 4; which += extent[0] == 3 ? 1 : 5) {
      const Extent3 image_stride = strides(extent, kOrders[which % kOrders.size()]);
      const Extent3 out_stride = strides(extent, kOrders[which / 4]);
      const Extent3 labels_stride = strides(extent, {0, 1, 2});
      ctfast::HuMap map{.scale = 2000.0F, .offset = -1000.0F, .low = -900.0F, .high = 800.0F, .air = -1024};
      map.rounding = which % 2 == 0 ? ctfast::Rounding::nearest : ctfast::Rounding::truncate;
      const int labelled = static_cast<int>(which % 3);  // without, uint8, uint16
      const bool bf16 = which % 4 > 1;
      std::vector<std::int16_t> wanted(given.values.size());
      ctfast::to_hu(bf16 ? rounded : given.values, map,
                    labelled == 0 ? std::span<const std::uint16_t>() : std::span(given.labels), wanted);
      const auto as_f32 = laid_out(given.values, extent, image_stride);
      const auto as_bf16 = laid_out(half, extent, image_stride);
      const void* labels = labelled == 0   ? nullptr
                           : labelled == 1 ? static_cast<const void*>(narrow.data())
                                           : static_cast<const void*>(given.labels.data());
      std::vector<std::int16_t> found(wanted.size(), 12345);
      std::uint64_t bad = 5;
      CHECK(ctfast_cuda_intensities(bf16 ? static_cast<const void*>(as_bf16.data()) : as_f32.data(),
                                    bf16 ? kBfloat16 : kFloat32, image_stride.data(), labels,
                                    labelled == 2 ? kUint16 : kUint8, labels_stride.data(), found.data(),
                                    out_stride.data(), extent.data(), map.scale, map.offset, map.low, map.high, map.air,
                                    map.rounding == ctfast::Rounding::nearest ? 1 : 0, &bad, nullptr) == 0);
      CHECK(found == laid_out(wanted, extent, out_stride));
      CHECK(bad == 5);
    }
  }
}

void bad_voxels_are_counted() {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const std::vector<float> values = {0.5F, NAN, kInfinity, 0.25F, -kInfinity, 1.0F};
  const std::vector<std::uint8_t> labels = {1, 0, 1, 1, 1, 0};
  const Extent3 extent = {2, 3, 1};
  for (const Extent3& stride : {Extent3{3, 1, 1}, Extent3{1, 2, 1}}) {
    std::vector<std::int16_t> out(6);
    std::uint64_t bad = 0;
    const Extent3 rows = {3, 1, 1};
    CHECK(ctfast_cuda_intensities(values.data(), kFloat32, stride.data(), labels.data(), kUint8, rows.data(),
                                  out.data(), rows.data(), extent.data(), 2000.0F, -1000.0F, -1000.0F, 1000.0F, -7, 1,
                                  &bad, nullptr) == 0);
    CHECK(bad == 3);
    CHECK(out[1] == -7 && out[5] == -7);
  }
}

void sums() {
  for (const std::int64_t channels : {1, 37, 64}) {
    for (const std::int64_t count : {1, 257, 1031}) {
      const auto values = normals(static_cast<std::size_t>(channels * count));
      std::vector<std::uint16_t> half(values.size());
      std::ranges::transform(values, half.begin(), bfloat16);
      for (const bool bf16 : {false, true}) {
        ctfast::ChannelSums core(channels);
        const void* data = bf16 ? static_cast<const void*>(half.data()) : values.data();
        const auto dtype = bf16 ? ctfast::DType::bf16 : ctfast::DType::f32;
        core.add(data, dtype, count, 1);
        core.add(data, dtype, count, 1);  // parts add up
        std::vector<double> totals(static_cast<std::size_t>(2 * channels));
        const std::int64_t slabs = ctfast_cuda_channel_slabs(count, channels);
        std::vector<double> partial(static_cast<std::size_t>(slabs * 2 * channels), NAN);
        for (int part = 0; part < 2; ++part) {
          CHECK(ctfast_cuda_channel_sums(data, bf16 ? kBfloat16 : kFloat32, count, channels, partial.data(),
                                         totals.data(), nullptr) == 0);
        }
        const ctfast::ChannelTotals wanted = core.totals();
        for (std::size_t c = 0; c < wanted.sums.size(); ++c) {
          const double limit = 1e-12 * static_cast<double>(count);
          CHECK_NEAR(totals[c], wanted.sums[c], limit);
          CHECK_NEAR(totals[wanted.sums.size() + c], wanted.squares[c], limit);
        }
      }
    }
  }
}

void slabs() {
  CHECK(ctfast_cuda_channel_slabs(0, 4) == 0);
  CHECK(ctfast_cuda_channel_slabs(1, 4) == 1);
  const std::int64_t many = ctfast_cuda_channel_slabs(std::int64_t{1} << 33U, 64);  // beyond 32 bits
  CHECK(many > 100 && many < 5000);
  CHECK(ctfast_cuda_channel_slabs(1 << 20U, 1 << 20U) == 1);
}

void stitching() {
  const Extent3 volume = {9, 7, 8};
  const Extent3 window = {5, 7, 4};
  for (const Extent3& scale : {Extent3{1, 1, 1}, Extent3{2, 3, 1}, Extent3{2, 2, 2}}) {
    for (const std::int64_t channels : {1, 3}) {
      const ctfast::WindowPlan plan = ctfast::plan_windows(volume, window, 0.4);
      const ctfast::WindowWeights weights = ctfast::gaussian_weights(window);
      const std::size_t out_size = static_cast<std::size_t>(channels) * voxels(volume) * voxels(scale);
      const std::size_t patch_size = static_cast<std::size_t>(channels) * voxels(window) * voxels(scale);
      const auto values = normals(patch_size + plan.starts.size());
      std::vector<float> wanted(out_size);
      ctfast::Stitcher stitcher(plan, weights, volume, scale, channels, wanted);
      std::vector<float> found(out_size, 0.0F);
      std::vector<float> total(voxels(volume), 0.0F);
      std::vector<float> axes;
      for (const auto& axis : weights.axis) axes.insert(axes.end(), axis.begin(), axis.end());
      for (std::size_t i = 0; i < plan.starts.size(); ++i) {
        stitcher.add(i, std::span(values).subspan(i, patch_size));
        CHECK(ctfast_cuda_stitch_add(found.data(), total.data(), values.data() + i, axes.data(), weights.floor,
                                     volume.data(), window.data(), plan.starts[i].data(), scale.data(), channels,
                                     nullptr) == 0);
      }
      stitcher.finish();
      CHECK(ctfast_cuda_stitch_finish(found.data(), total.data(), volume.data(), scale.data(), channels, nullptr) == 0);
      CHECK(plan.starts.size() > 1);
      CHECK(std::memcmp(found.data(), wanted.data(), out_size * sizeof(float)) == 0);
    }
  }
}

// As NumPy's.
float median(std::vector<std::int16_t> values) {
  std::ranges::sort(values);
  const std::size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? static_cast<float>(values[half])
                                : 0.5F * static_cast<float>(values[half - 1] + values[half]);
}

template <class Label>
void check_medians(std::size_t count, int type) {
  constexpr std::int64_t kRows = 5;
  constexpr std::int64_t kFirst = -1000;
  constexpr std::int64_t kBins = 2001;
  const auto noise = normals(count);
  std::vector<std::int16_t> values(count);
  std::vector<Label> labels(count);
  std::vector<std::vector<std::int16_t>> of(kRows);
  for (std::size_t i = 0; i < count; ++i) {
    labels[i] = static_cast<Label>(i / 20 % 7);  // 0, four organs, two beyond the rows
    if (labels[i] == 3) labels[i] = 2;           // and one that is absent
    values[i] = static_cast<std::int16_t>(
        std::clamp(noise[i] * 600.0F + 40.0F * static_cast<float>(labels[i]), -1000.0F, 1000.0F));
    if (labels[i] != 0 && labels[i] < kRows) of[labels[i]].push_back(values[i]);
  }
  std::vector<std::uint32_t> counts(kRows * kBins, 0);
  CHECK(ctfast_cuda_count_values(values.data(), labels.data(), type, static_cast<std::int64_t>(count), counts.data(),
                                 kRows, kBins, kFirst, nullptr) == 0);
  std::vector<float> medians(kRows);
  std::vector<std::int64_t> counted(kRows);
  CHECK(ctfast_cuda_medians(counts.data(), kRows, kBins, kFirst, medians.data(), counted.data(), nullptr) == 0);
  for (std::size_t row = 0; row < kRows; ++row) {
    CHECK(counted[row] == static_cast<std::int64_t>(of[row].size()));
    CHECK(of[row].empty() ? std::isnan(medians[row]) : medians[row] == median(of[row]));
  }
}

void medians() {
  for (const std::size_t count : {1U, 21U, 22U, 160U, 4999U}) {
    check_medians<std::uint8_t>(count, kUint8);
    check_medians<std::uint16_t>(count, kUint16);
  }
}

void values_outside_the_bins() {
  const std::vector<std::int16_t> values = {-32768, 5, 32767, 32767};
  const std::vector<std::uint8_t> labels = {1, 1, 1, 1};
  std::vector<std::uint32_t> counts(2 * 10, 0);
  CHECK(ctfast_cuda_count_values(values.data(), labels.data(), kUint8, 4, counts.data(), 2, 10, 0, nullptr) == 0);
  CHECK(counts[10] == 1 && counts[15] == 1 && counts[19] == 2);
}

}  // namespace

int main() {
  check::test("intensities", intensities);
  check::test("bad voxels are counted", bad_voxels_are_counted);
  check::test("sums", sums);
  check::test("slabs", slabs);
  check::test("stitching", stitching);
  check::test("medians", medians);
  check::test("values outside the bins", values_outside_the_bins);
  return check::finish();
}
