#include <algorithm>
#include <cmath>
#include <set>
#include <vector>

#include "check.h"
#include "core/noise.h"

using ctfast::ErrorKind;
using Words = std::array<std::uint32_t, 4>;

namespace {

std::vector<float> normals(std::uint64_t seed, std::uint64_t sample, std::uint64_t first, std::size_t count) {
  std::vector<float> out(count);
  ctfast::fill_normal(seed, sample, first, out);
  return out;
}

// The vectors published with Random123 for philox4x32, ten rounds.
void known_answers() {
  constexpr std::uint32_t kOnes = 0xffffffffU;
  CHECK((ctfast::philox4x32({0, 0, 0, 0}, {0, 0}) == Words{0x6627e8d5U, 0xe169c58dU, 0xbc57ac4cU, 0x9b00dbd8U}));
  CHECK((ctfast::philox4x32({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}) ==
         Words{0x408f276dU, 0x41c83b0eU, 0xa20bc7c6U, 0x6d5451fdU}));
  CHECK((ctfast::philox4x32({0x243f6a88U, 0x85a308d3U, 0x13198a2eU, 0x03707344U}, {0xa4093822U, 0x299f31d0U}) ==
         Words{0xd16cfe09U, 0x94fdcceb, 0x5001e420U, 0x24126ea1U}));
}

// The layout documented in noise.h: any change of it changes everybody's volumes.
void layout() {
  const std::uint64_t seed = 0x0123456789abcdefU;
  const std::uint64_t stream = 0x0000700000000005U;
  const std::uint64_t block = 0x100000002U;
  const Words words = ctfast::philox4x32({2, 1, 5, 0x7000}, {0x89abcdefU, 0x01234567U});
  const double radius = std::sqrt(-2.0 * std::log((words[2] + 0.5) / 4294967296.0));
  const double angle = 2.0 * std::acos(-1.0) * words[3] / 4294967296.0;
  const std::vector<float> found = normals(seed, stream, block * 4, 4);
  CHECK_NEAR(found[2], radius * std::cos(angle), 1e-6);
  CHECK_NEAR(found[3], radius * std::sin(angle), 1e-6);
}

void chunking_does_not_matter() {
  const std::vector<float> whole = normals(7, 3, 0, 1001);
  for (const std::size_t length : {std::size_t{1}, std::size_t{3}, std::size_t{4}, std::size_t{250}}) {
    std::vector<float> parts;
    for (std::size_t first = 0; first < whole.size(); first += length) {
      const auto part = normals(7, 3, first, std::min(length, whole.size() - first));
      parts.insert(parts.end(), part.begin(), part.end());
    }
    CHECK(parts == whole);
  }
  CHECK(normals(7, 3, 0, 0).empty());
}

void streams_differ() {
  std::set<std::vector<float>> seen;
  for (std::uint64_t seed : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{1} << 32U}) {
    for (std::uint64_t sample : {std::uint64_t{0}, std::uint64_t{1}, ctfast::kMaxSample - 1}) {
      seen.insert(normals(seed, sample, 0, 8));
      for (std::int64_t step : {0, 1, 999}) seen.insert(normals(seed, ctfast::step_stream(sample, step), 0, 8));
    }
  }
  CHECK(seen.size() == 36);  // 3 seeds x 3 samples x (initial noise and 3 steps)
}

void moments_and_distribution() {
  constexpr std::size_t kCount = 200000;
  std::vector<float> values = normals(20240601, 0, 0, kCount);
  double sums[5] = {};
  double neighbours = 0.0;
  for (std::size_t i = 0; i < kCount; ++i) {
    double power = 1.0;
    for (double& sum : sums) {
      sum += power / kCount;
      power *= values[i];
    }
    if (i > 0) neighbours += static_cast<double>(values[i]) * values[i - 1] / kCount;
  }
  // Four standard errors of each moment's estimate.
  const double error = 4.0 / std::sqrt(static_cast<double>(kCount));
  CHECK_NEAR(sums[1], 0.0, error);
  CHECK_NEAR(sums[2], 1.0, error * std::sqrt(2.0));
  CHECK_NEAR(sums[3], 0.0, error * std::sqrt(15.0));
  CHECK_NEAR(sums[4], 3.0, error * std::sqrt(96.0));
  CHECK_NEAR(neighbours, 0.0, error);
  // Kolmogorov-Smirnov, 1 % level.
  std::sort(values.begin(), values.end());
  double distance = 0.0;
  for (std::size_t i = 0; i < kCount; ++i) {
    const double cdf = 0.5 * std::erfc(-values[i] / std::sqrt(2.0));
    distance = std::max({distance, std::abs(cdf - static_cast<double>(i) / kCount),
                         std::abs(cdf - static_cast<double>(i + 1) / kCount)});
  }
  CHECK(distance * std::sqrt(static_cast<double>(kCount)) < 1.63);
  CHECK(values.front() > -6.8F && values.back() < 6.8F);
}

void bad_requests() {
  std::vector<float> out(8);
  CHECK_THROWS(ErrorKind::request, "2^48", ctfast::step_stream(ctfast::kMaxSample, 0));
  CHECK_THROWS(ErrorKind::request, "found -1", ctfast::step_stream(0, -1));
  CHECK_THROWS(ErrorKind::request, "65535", ctfast::step_stream(0, 65535));
  CHECK_THROWS(ErrorKind::request, "2^64", ctfast::fill_normal(0, 0, ~std::uint64_t{0} - 3, out));
}

}  // namespace

int main() {
  check::test("known answers", known_answers);
  check::test("layout", layout);
  check::test("chunking does not matter", chunking_does_not_matter);
  check::test("streams differ", streams_differ);
  check::test("moments and distribution", moments_and_distribution);
  check::test("bad requests", bad_requests);
  return check::finish();
}
