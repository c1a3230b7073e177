// A decoder small enough to check by hand: its stages mix rows and channels, but not the voxels of a plane.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/noise.h"
#include "core/program.h"
#include "core/session.h"
#include "core/tensor.h"

namespace toy {

using ctfast::DType;
using ctfast::NamedTensor;
using ctfast::Program;
using ctfast::Shape;
using ctfast::SlabGrid;
using ctfast::Stage;
using ctfast::StageSpec;
using ctfast::TensorView;

inline StageSpec stage(std::string name, std::string reads, std::int64_t channels, std::int64_t norm_channels,
                       std::string adds = "") {
  StageSpec spec;
  spec.name = name;
  spec.reads = std::move(reads);
  spec.writes = std::move(name);
  spec.adds = std::move(adds);
  spec.channels = channels;
  spec.before = spec.after = 1;
  spec.multiply_adds = 3 * channels;
  spec.mask = ctfast::SlabMask{SlabGrid::input, 1, 1};
  if (norm_channels == 0) return spec;
  ctfast::GroupNorm norm{2, 1e-3, {}, {}};
  for (std::int64_t c = 0; c < norm_channels; ++c) {
    norm.gamma.push_back(0.5F + 0.25F * static_cast<float>(c));
    norm.beta.push_back(0.1F * static_cast<float>(c) - 0.2F);
  }
  spec.norm = norm;
  return spec;
}

// conv_in; a residual block; an enlargement; a residual block that changes the width; and the image.
inline std::vector<StageSpec> decoder_stages() {
  StageSpec up = stage("up", "b2", 4, 0);
  up.up = {2, 2, 2};
  up.mask = ctfast::SlabMask{SlabGrid::output, 1, 1};
  StageSpec skip = stage("skip", "up", 2, 0);
  skip.before = skip.after = 0;
  skip.mask.reset();
  return {stage("in", "latent", 4, 0),     stage("b1", "in", 4, 4),
          stage("b2", "b1", 4, 4, "in"),   up,
          stage("c1", "up", 2, 4),         skip,
          stage("c2", "c1", 2, 2, "skip"), stage("image", "c2", 1, 2)};
}

inline Program decoder() { return {"latent", 3, "image", decoder_stages()}; }

// Weight of channel `from` at a distance of -1, 0 or 1 rows, for channel `to`.
inline float weight(const std::string& stage, std::int64_t to, std::int64_t from, std::int64_t distance) {
  const auto seed = static_cast<std::uint64_t>(std::hash<std::string>{}(stage) & 0xFFFFU);
  float value = 0.0F;
  ctfast::fill_normal(seed, 0, static_cast<std::uint64_t>((to * 16 + from) * 3 + distance + 1), std::span(&value, 1));
  return 0.5F * value;
}

inline float active(float value) { return value / (1.0F + std::abs(value)); }

// A value of the enlarged input at row `row` of the enlarged grid: along z between two rows, in the plane the nearest.
inline float enlarged(const std::function<float(std::int64_t row)>& value, std::int64_t row) {
  const std::int64_t base = row >= 0 ? row / 2 : (row - 1) / 2;
  const std::int64_t other = row % 2 == 0 ? base - 1 : base + 1;
  return 0.75F * value(base) + 0.25F * value(other);
}

// Runs a stage on a slab, seeing no more than a network would.
class StageSession : public ctfast::Session {
 public:
  explicit StageSession(const Stage& stage) : stage_(stage) {}

  const std::vector<std::string>& inputs() const override { return names_; }
  const std::vector<std::string>& outputs() const override { return names_; }
  std::vector<NamedTensor> run(const std::vector<NamedTensor>&) override { return {}; }

  void run_into(const std::vector<NamedTensor>& inputs, const TensorView& output) override {
    const TensorView& x = find_tensor(inputs, "x");
    const std::int64_t out_rows = output.shape[1];
    const std::int64_t width = output.shape[3];
    const std::int64_t from_channels = x.shape[4];
    const std::int64_t scale = stage_.up[1];
    float* result = output.f32().data();
    for (std::int64_t row = 0; row < out_rows; ++row) {
      for (std::int64_t y = 0; y < output.shape[2]; ++y) {
        for (std::int64_t column = 0; column < width; ++column) {
          for (std::int64_t to = 0; to < stage_.channels; ++to, ++result) {
            float sum = 0.0F;
            for (std::int64_t from = 0; from < from_channels; ++from) {
              const auto at = [&](std::int64_t r) { return value(inputs, x, r, y / scale, column / scale, from); };
              const std::int64_t reach = stage_.before;
              for (std::int64_t d = -reach; d <= reach; ++d) {
                float seen = 0.0F;
                if (scale == 1) {
                  seen = at(row + reach + d) * (reach > 0 ? mask(inputs, row + reach + d) : 1.0F);
                } else {  // row 0 of the result is row 2 of the enlarged slab, and row 1 of the mask
                  seen = enlarged(at, row + 2 + d) * mask(inputs, row + 1 + d);
                }
                sum += weight(stage_.name, to, from, d) * seen;
              }
            }
            const bool adds = !stage_.adds.empty();
            *result = sum + (adds ? find_tensor(inputs, "residual")
                                        .f32()[static_cast<std::size_t>(
                                            ((row * output.shape[2] + y) * width + column) * stage_.channels + to)]
                                  : 0.0F);
          }
        }
      }
    }
    ++calls;
  }

  int calls = 0;

 private:
  static float mask(const std::vector<NamedTensor>& inputs, std::int64_t row) {
    return find_tensor(inputs, "mask").f32()[static_cast<std::size_t>(row)];
  }

  float value(const std::vector<NamedTensor>& inputs, const TensorView& x, std::int64_t row, std::int64_t y,
              std::int64_t column, std::int64_t channel) const {
    const std::int64_t index = ((row * x.shape[2] + y) * x.shape[3] + column) * x.shape[4] + channel;
    const float given = x.f32()[static_cast<std::size_t>(index)];
    if (!stage_.norm) return given;
    const auto c = static_cast<std::size_t>(channel);
    return active(given * find_tensor(inputs, "scale").f32()[c] + find_tensor(inputs, "shift").f32()[c]);
  }

  const Stage& stage_;
  std::vector<std::string> names_;
};

using Volume = std::vector<double>;

// The same network on whole volumes in float64, with zeros outside them: what any strategy has to give.
inline Volume whole(const Program& program, const ctfast::Extent3& size, const std::vector<float>& input) {
  const std::vector<ctfast::Extent3> extents = program.extents(size);
  std::vector<Volume> tensors{Volume(input.begin(), input.end())};
  for (const Stage& stage : program.stages()) {
    const Volume& x = tensors[static_cast<std::size_t>(stage.input)];
    const ctfast::Extent3 in = extents[static_cast<std::size_t>(stage.input)];
    const ctfast::Extent3 out = extents[static_cast<std::size_t>(stage.output)];
    const std::int64_t channels = program.tensors()[static_cast<std::size_t>(stage.input)].channels;
    Volume activated = x;
    if (stage.norm) {
      const std::int64_t width = channels / stage.norm->groups;
      for (std::int64_t group = 0; group < stage.norm->groups; ++group) {
        double mean = 0.0;
        double square = 0.0;
        const double n = static_cast<double>(in[0] * in[1] * in[2] * width);
        const auto each = [&](auto&& body) {
          for (std::size_t i = 0; i < x.size(); ++i) {
            const auto c = static_cast<std::int64_t>(i) % channels;
            if (c / width == group) body(i, static_cast<std::size_t>(c));
          }
        };
        each([&](std::size_t i, std::size_t) { mean += x[i] / n; });
        each([&](std::size_t i, std::size_t) { square += (x[i] - mean) * (x[i] - mean) / n; });
        each([&](std::size_t i, std::size_t c) {
          const double value = (x[i] - mean) / std::sqrt(square + stage.norm->eps);
          const double scaled =
              value * static_cast<double>(stage.norm->gamma[c]) + static_cast<double>(stage.norm->beta[c]);
          activated[i] = scaled / (1.0 + std::abs(scaled));
        });
      }
    }
    const std::int64_t scale = stage.up[0];
    Volume result;
    for (std::int64_t row = 0; row < out[0]; ++row) {
      for (std::int64_t y = 0; y < out[1]; ++y) {
        for (std::int64_t column = 0; column < out[2]; ++column) {
          for (std::int64_t to = 0; to < stage.channels; ++to) {
            double sum = 0.0;
            for (std::int64_t from = 0; from < channels; ++from) {
              const auto at = [&](std::int64_t r) {
                r = std::clamp<std::int64_t>(r, 0, in[0] - 1);
                return activated[static_cast<std::size_t>(
                    ((r * in[1] + y / scale) * in[2] + column / scale) * channels + from)];
              };
              for (std::int64_t d = -stage.before; d <= stage.before; ++d) {
                const std::int64_t r = row + d;
                if (r < 0 || r >= out[0]) continue;
                const std::int64_t base = r / 2;
                const double seen = scale == 1 ? at(r) : 0.75 * at(base) + 0.25 * at(r % 2 == 0 ? base - 1 : base + 1);
                sum += static_cast<double>(weight(stage.name, to, from, d)) * seen;
              }
            }
            if (stage.residual >= 0) sum += tensors[static_cast<std::size_t>(stage.residual)][result.size()];
            result.push_back(sum);
          }
        }
      }
    }
    tensors.push_back(std::move(result));
  }
  return tensors.back();
}

}  // namespace toy
