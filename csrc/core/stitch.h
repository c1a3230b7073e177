// Blends decoded windows into a volume: sum(weight * window) / sum(weight) per voxel.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "window.h"

namespace ctfast {

// Windows are planned on a coarse grid (the latent); their decoded patches are `scale` times larger along each axis.
// Weights belong to coarse voxels and are repeated (nearest-exact with an integer scale), so the sum of weights is kept
// at coarse size. Float32 sums in the order of the calls: added in plan order, the result is MONAI's.
class Stitcher {
 public:
  // `out` is channels x (volume * scale), row-major; it is cleared here and must outlive the stitcher.
  Stitcher(const WindowPlan& plan, const WindowWeights& weights, const Extent3& volume, const Extent3& scale,
           std::int64_t channels, std::span<float> out);

  // Adds the patch of window `index`: channels x (window * scale), row-major. Each window once.
  void add(std::size_t index, std::span<const float> patch);

  // Divides by the weights; `out` then holds the result. Every window must have been added.
  void finish();

 private:
  WindowPlan plan_;
  WindowWeights weights_;
  Extent3 volume_;
  Extent3 scale_;
  std::int64_t channels_;
  std::span<float> out_;
  std::vector<float> total_;  // sum of weights per coarse voxel
  std::vector<bool> added_;
};

}  // namespace ctfast
