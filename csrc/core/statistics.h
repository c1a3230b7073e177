// Statistics of group norms, gathered slab by slab.
#pragma once

#include <cstdint>
#include <vector>

#include "memory.h"
#include "program.h"
#include "tensor.h"

namespace ctfast {

// Sums of a tensor's values and of their squares per channel, in float64: parts may come in any sizes, and the result
// differs from that of one pass in the last digits of float64 at most.
class ChannelSums : public RowSums {
 public:
  explicit ChannelSums(std::int64_t channels);

  void add(const void* values, DType dtype, std::int64_t voxels, int threads) override;
  ChannelTotals totals() const override { return totals_; }

 private:
  std::int64_t channels_;
  ChannelTotals totals_;
};

// What makes a group norm of x: x * scale + shift, per channel, float32.
struct ScaleShift {
  std::vector<float> scale;
  std::vector<float> shift;
};

// From the totals of a tensor with so many voxels.
ScaleShift normalisation(const ChannelTotals& totals, std::int64_t voxels, const GroupNorm& norm);

}  // namespace ctfast
