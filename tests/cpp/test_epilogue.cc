#include <cmath>
#include <limits>
#include <vector>

#include "check.h"
#include "core/epilogue.h"

using ctfast::ErrorKind;
using ctfast::HuMap;
using ctfast::Rounding;
using Volume = std::vector<std::int16_t>;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

Volume convert(const std::vector<float>& image, const HuMap& map, const std::vector<std::uint16_t>& labels = {}) {
  Volume out(image.size());
  ctfast::to_hu(image, map, labels, out);
  return out;
}

void ct() {
  CHECK((convert({0.0F, 0.5F, 1.0F, -0.1F, 1.1F, 0.75F}, {}) == Volume{-1000, 0, 1000, -1000, 1000, 500}));
  // 0.4 and 0.6 HU on either side of 0.
  const std::vector<float> near_zero = {0.5003F, 0.4997F, 0.5002F, 0.4998F};
  HuMap truncating;
  truncating.rounding = Rounding::truncate;
  CHECK((convert(near_zero, {}) == Volume{1, -1, 0, 0}));
  CHECK((convert(near_zero, truncating) == Volume{0, 0, 0, 0}));
}

void rounding() {
  HuMap identity = {1.0F, 0.0F, -kInfinity, kInfinity, 0, Rounding::nearest};
  std::vector<float> image;
  Volume nearest;
  Volume truncated;
  for (int i = -4 * 33000; i <= 4 * 33000; ++i) {
    const float value = static_cast<float>(i) / 4.0F;
    image.push_back(value);
    const float cut = std::fmin(std::fmax(value, -32768.0F), 32767.0F);
    nearest.push_back(static_cast<std::int16_t>(std::nearbyint(cut)));
    truncated.push_back(static_cast<std::int16_t>(std::trunc(cut)));
  }
  CHECK(convert(image, identity) == nearest);
  identity.rounding = Rounding::truncate;
  CHECK(convert(image, identity) == truncated);
}

// MR: no upper limit but the type's.
void mr() {
  const HuMap map = {1000.0F, 0.0F, 0.0F, kInfinity, 0, Rounding::truncate};
  CHECK((convert({-0.2F, 0.5F, 1.7F, 40.0F}, map) == Volume{0, 500, 1700, 32767}));
}

// float32 product, then float32 sum: what numpy does to the official scripts' array before its cast.
void single_precision() {
  HuMap map;
  map.rounding = Rounding::truncate;
  std::vector<float> image;
  Volume expected;
  for (int i = 0; i <= 20000; ++i) {
    image.push_back(static_cast<float>(i) / 20000.0F);
    const volatile float product = image.back() * 2000.0F;
    expected.push_back(static_cast<std::int16_t>(product - 1000.0F));
  }
  CHECK(convert(image, map) == expected);
}

void labels_crop_to_air() {
  HuMap map;
  map.air = -1024;
  CHECK((convert({0.5F, 0.5F, 1.0F}, map, {0, 1, 65535}) == Volume{-1024, 0, 1000}));
}

void bad_images() {
  const float nan = std::nanf("");
  CHECK_THROWS(ErrorKind::request, "3 of 4", convert({nan, 0.5F, kInfinity, -kInfinity}, {}));
  CHECK_THROWS(ErrorKind::request, "1 of 2", convert({0.0F, nan}, {}, {1, 0}));  // air does not hide it
  Volume short_out(1);
  CHECK_THROWS(ErrorKind::request, "2 voxels", ctfast::to_hu(std::vector<float>(2), {}, {}, short_out));
  CHECK_THROWS(ErrorKind::request, "found 2 and 1", convert({0.0F, 0.0F}, {}, {1}));
  HuMap upside_down;
  upside_down.low = 2000.0F;
  CHECK_THROWS(ErrorKind::request, "low <= high", convert({0.0F}, upside_down));
  HuMap infinite;
  infinite.scale = kInfinity;
  CHECK_THROWS(ErrorKind::request, "finite intensity scale", convert({0.0F}, infinite));
  CHECK(convert({}, {}).empty());
}

void bits() {
  const std::vector<std::uint16_t> labels = {0, 1, 132, 200, 255};
  std::vector<float> out(8 * labels.size(), NAN);
  ctfast::label_bits(labels, 8, out);
  for (std::size_t bit = 0; bit < 8; ++bit) {
    for (std::size_t i = 0; i < labels.size(); ++i) {
      CHECK(out[bit * labels.size() + i] == ((labels[i] & (1U << bit)) != 0 ? 1.0F : 0.0F));
    }
  }
  // The body label 200 is bits 3, 6 and 7.
  CHECK(out[3 * 5 + 3] == 1.0F && out[6 * 5 + 3] == 1.0F && out[7 * 5 + 3] == 1.0F && out[0 * 5 + 3] == 0.0F);
  std::vector<float> wide(16);
  ctfast::label_bits(std::vector<std::uint16_t>{65535}, 16, wide);
  CHECK(wide == std::vector<float>(16, 1.0F));
  CHECK_THROWS(ErrorKind::request, "0 to 127, found 255", ctfast::label_bits(labels, 7, std::span(out).first(35)));
  CHECK_THROWS(ErrorKind::request, "found 17", ctfast::label_bits(labels, 17, out));
  CHECK_THROWS(ErrorKind::request, "8 channels of 5", ctfast::label_bits(labels, 8, std::span(out).first(39)));
}

}  // namespace

int main() {
  check::test("CT", ct);
  check::test("rounding", rounding);
  check::test("MR", mr);
  check::test("single precision", single_precision);
  check::test("labels crop to air", labels_crop_to_air);
  check::test("bad images", bad_images);
  check::test("bits", bits);
  return check::finish();
}
