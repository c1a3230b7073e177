#include "stitch.h"

#include <algorithm>
#include <string>

#include "error.h"
#include "ops/blend.h"

namespace ctfast {
namespace {

std::size_t size(std::int64_t value) { return static_cast<std::size_t>(value); }

std::size_t voxels(const Extent3& extent) { return size(extent[0]) * size(extent[1]) * size(extent[2]); }

std::string text(const Extent3& extent) {
  return std::to_string(extent[0]) + " x " + std::to_string(extent[1]) + " x " + std::to_string(extent[2]);
}

}  // namespace

Stitcher::Stitcher(const WindowPlan& plan, const WindowWeights& weights, const Extent3& volume, const Extent3& scale,
                   std::int64_t channels, std::span<float> out)
    : plan_(plan), weights_(weights), volume_(volume), scale_(scale), channels_(channels), out_(out) {
  for (std::size_t axis = 0; axis < 3; ++axis) {
    const std::int64_t extent = plan.size[axis];
    if (volume[axis] < 1 || extent < 1 || scale[axis] < 1 || weights.axis[axis].size() != size(extent)) {
      throw Error(ErrorKind::request,
                  "expected weights for windows of " + text(plan.size) +
                      " and positive extents and scales, found volume " + text(volume) + ", scale " + text(scale) +
                      " and " + std::to_string(weights.axis[axis].size()) + " weights on axis " + std::to_string(axis));
    }
    for (const Extent3& start : plan.starts) {
      if (start[axis] < 0 || start[axis] + extent > volume[axis]) {
        throw Error(ErrorKind::request, "expected windows inside a volume of " + text(volume) + ", found one of " +
                                            text(plan.size) + " at " + text(start));
      }
    }
  }
  const std::size_t expected = size(channels) * voxels(volume) * voxels(scale);
  if (channels < 1 || out.size() != expected) {
    throw Error(ErrorKind::request, "expected an output of " + std::to_string(channels) + " channels and " +
                                        std::to_string(expected) + " values, found " + std::to_string(out.size()));
  }
  std::fill(out_.begin(), out_.end(), 0.0F);
  total_.assign(voxels(volume), 0.0F);
  added_.assign(plan.starts.size(), false);
}

void Stitcher::add(std::size_t index, std::span<const float> patch) {
  const std::size_t expected = size(channels_) * voxels(plan_.size) * voxels(scale_);
  if (index >= added_.size() || added_[index] || patch.size() != expected) {
    throw Error(ErrorKind::request, "expected each of " + std::to_string(added_.size()) + " windows once, with " +
                                        std::to_string(expected) + " values, found window " + std::to_string(index) +
                                        " with " + std::to_string(patch.size()));
  }
  added_[index] = true;
  const Extent3& start = plan_.starts[index];
  const std::size_t patch_row = size(plan_.size[2] * scale_[2]);
  const std::size_t out_row = size(volume_[2] * scale_[2]);
  std::vector<float> row(patch_row);  // the weights of one row, repeated along the last axis
  for (std::int64_t i = 0; i < plan_.size[0]; ++i) {
    for (std::int64_t j = 0; j < plan_.size[1]; ++j) {
      const std::size_t coarse = size(((start[0] + i) * volume_[1] + start[1] + j) * volume_[2] + start[2]);
      for (std::int64_t k = 0; k < plan_.size[2]; ++k) {
        const float weight = weights_.at(i, j, k);
        total_[coarse + size(k)] += weight;
        std::fill_n(row.begin() + k * scale_[2], scale_[2], weight);
      }
      for (std::int64_t line = 0; line < channels_ * scale_[0] * scale_[1]; ++line) {
        const std::int64_t channel = line / (scale_[0] * scale_[1]);
        const std::int64_t x = line / scale_[1] % scale_[0];
        const std::int64_t y = line % scale_[1];
        const float* from =
            patch.data() +
            size((channel * plan_.size[0] + i) * scale_[0] + x) * size(plan_.size[1] * scale_[1]) * patch_row +
            size(j * scale_[1] + y) * patch_row;
        float* to =
            out_.data() +
            size((channel * volume_[0] + start[0] + i) * scale_[0] + x) * size(volume_[1] * scale_[1]) * out_row +
            size((start[1] + j) * scale_[1] + y) * out_row + size(start[2] * scale_[2]);
        for (std::size_t k = 0; k < patch_row; ++k) to[k] = ops::blended(to[k], from[k], row[k]);
      }
    }
  }
}

void Stitcher::finish() {
  const auto missing = std::count(added_.begin(), added_.end(), false);
  if (missing != 0) {
    throw Error(ErrorKind::request, "expected " + std::to_string(added_.size()) + " windows before the division, " +
                                        std::to_string(missing) + " are missing");
  }
  const std::size_t out_row = size(volume_[2] * scale_[2]);
  const std::size_t rows = size(channels_ * volume_[0] * scale_[0] * volume_[1] * scale_[1]);
  for (std::size_t row = 0; row < rows; ++row) {
    const std::size_t y = row % size(volume_[1] * scale_[1]) / size(scale_[1]);
    const std::size_t x = row / size(volume_[1] * scale_[1]) % size(volume_[0] * scale_[0]) / size(scale_[0]);
    const float* total = total_.data() + (x * size(volume_[1]) + y) * size(volume_[2]);
    float* values = out_.data() + row * out_row;
    for (std::int64_t k = 0; k < volume_[2]; ++k) {
      for (std::int64_t r = 0; r < scale_[2]; ++r) values[k * scale_[2] + r] /= total[k];
    }
  }
}

}  // namespace ctfast
