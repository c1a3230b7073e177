// Statistics of group norms, gathered slab by slab.
#pragma once

#include <cstdint>
#include <vector>

#include "program.h"
#include "tensor.h"

namespace ctfast {

// Sums of a tensor's values and of their squares per channel, in float64: parts may come in any sizes, and the result
// differs from that of one pass in the last digits of float64 at most.
class ChannelSums {
 public:
  explicit ChannelSums(std::int64_t channels = 0);

  // Adds channels-last values, float32 or bfloat16.
  void add(const void* values, DType dtype, std::int64_t voxels, int threads);

  std::int64_t voxels() const { return voxels_; }

  // What makes a group norm of x: x * scale + shift, per channel, float32.
  struct ScaleShift {
    std::vector<float> scale;
    std::vector<float> shift;
  };
  ScaleShift normalisation(const GroupNorm& norm) const;

 private:
  std::int64_t channels_;
  std::int64_t voxels_ = 0;
  std::vector<double> sums_;     // of values
  std::vector<double> squares_;  // of their squares
};

}  // namespace ctfast
