// Which tensors of a program to keep where, under a budget of memory.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "schedule.h"

namespace ctfast {

struct PlannerOptions {
  std::int64_t element_bytes = 2;           // of tensors between stages: 2 for bfloat16, 4 for float32
  std::int64_t budget = 0;                  // bytes beyond the weights
  std::optional<std::int64_t> whole_bytes;  // what the whole network takes in one call; none: it is not at hand
  double rate = 1e12;                       // multiply-adds per second; moving memory is taken to go along with it
  double spill_rate = 1e9;                  // bytes per second, to or from where tensors are spilled
};

// How a program is run, with what that is predicted to take.
struct Strategy {
  // whole: one call of the whole network. in_place: every tensor is computed once and, where it is needed again, kept
  // in memory, written over one no longer needed. spill: tensors of the largest grids go to a scratch file. recompute:
  // some are computed again from smaller ones.
  std::string name;
  std::int64_t peak_bytes = 0;
  double work = 1.0;  // multiply-adds over those of one plain pass
  std::int64_t spilled_bytes = 0;
  std::int64_t scratch_bytes = 0;
  double seconds = 0.0;  // from the options' rates
  bool fits = false;
  std::vector<Keep> keep;          // of each tensor
  std::vector<std::int64_t> rows;  // of output that each stage computes per call
};

// One strategy of each kind: the quickest that fits, or the smallest where none does. Throws Error(request) if the
// program does not take the size.
std::vector<Strategy> plan_strategies(const Program& program, const Extent3& size, const PlannerOptions& options);

// Predicted peak of a schedule: tensors kept at the same time, and the slabs of the pass.
std::int64_t peak_bytes(const Program& program, const std::vector<Extent3>& extents, const Schedule& schedule,
                        const std::vector<std::int64_t>& rows, std::int64_t element_bytes);

// What the sessions of a pass hold while they run.
std::int64_t workspace_bytes(const Program& program, const std::vector<Extent3>& extents, const Pass& pass,
                             const std::vector<std::int64_t>& rows, std::int64_t element_bytes);

// Bytes that one call of a stage reads, writes and holds in between when it computes `rows` rows of its output.
std::int64_t call_bytes(const Program& program, const std::vector<Extent3>& extents, const Stage& stage,
                        std::int64_t rows, std::int64_t element_bytes);

// Rows that each stage computes per call so that its slabs take about `slab_bytes`: the same for all stages that write
// tensors of one size, and where possible a divisor of their rows, since every other number costs a compilation.
std::vector<std::int64_t> slab_rows(const Program& program, const std::vector<Extent3>& extents,
                                    std::int64_t slab_bytes, std::int64_t element_bytes);

}  // namespace ctfast
