// In which passes a program computes its tensors, and where the kept ones lie.
//
// A pass walks once along the rows. It ends in one or more sinks: tensors that are kept, whose statistics are needed,
// or the result. What lies between the kept tensors and the sinks is streamed: computed chunk by chunk and forgotten.
#pragma once

#include <cstdint>
#include <vector>

#include "program.h"

namespace ctfast {

enum class Keep {
  stream,  // computed again in every pass that needs it
  memory,
  spill,  // in a scratch file
};

struct Pass {
  std::vector<int> sinks;   // stages, in order
  std::vector<int> stages;  // all that run, in order
};

// Memory of kept tensors: one or more of them side by side in rows of `row_bytes`. A tensor may be written over one
// that the same pass reads for the last time, behind the reading.
struct Slot {
  std::int64_t rows = 0;
  std::int64_t row_bytes = 0;
  int first_pass = 0;
  int last_pass = 0;

  std::int64_t bytes() const { return rows * row_bytes; }
};

struct Place {
  int slot = -1;
  std::int64_t offset = 0;  // bytes from the row's start
  bool direct = false;      // alone in a slot of its own width when it is written: its stage can write there at once
};

struct Schedule {
  std::vector<Pass> passes;
  std::vector<int> last_use;  // of each tensor: the last pass that reads it from where it is kept; -1: none
  std::vector<Slot> slots;
  std::vector<Place> places;  // of each tensor; slot -1 unless kept in memory
  double multiply_adds = 0.0;
  std::int64_t spilled_bytes = 0;  // written and read
  std::int64_t scratch_bytes = 0;  // the most that is in scratch files at one time
};

// Bytes of one row of a tensor; the program's input and output are float32, others have elements of `element_bytes`.
std::int64_t row_bytes(const Program& program, const std::vector<Extent3>& extents, int tensor,
                       std::int64_t element_bytes);

// `keep` has an entry per tensor; those of the input and the output are ignored: the input is at hand throughout.
Schedule make_schedule(const Program& program, const std::vector<Extent3>& extents, const std::vector<Keep>& keep,
                       std::int64_t element_bytes);

}  // namespace ctfast
