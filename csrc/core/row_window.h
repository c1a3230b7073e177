// A moving window over the rows of a tensor, in one piece of memory.
#pragma once

#include <cstdint>

#include "arena.h"

namespace ctfast {

// Rows are numbered as in the tensor. Around it there are `before` and `after` more, copies of its first and last row:
// what a slab at the border has outside the volume.
class RowWindow {
 public:
  RowWindow(Arena& arena, std::int64_t rows, std::int64_t row_bytes, std::int64_t before, std::int64_t after,
            std::int64_t capacity, int threads);

  std::int64_t produced() const { return produced_; }  // rows of the tensor that have come in

  // Memory for the next `count` rows, to be filled before commit(). Moves what is there; pointers from row() are void.
  std::byte* reserve(std::int64_t count);
  // The next `count` rows are there: those reserved, less the first `skip`.
  void commit(std::int64_t count, std::int64_t skip = 0);

  // Rows before `row` are no longer needed.
  void drop_before(std::int64_t row);

  // Rows from `row` on, which must be there; negative ones and those behind the end are copies of the edge.
  const std::byte* row(std::int64_t row) const;

 private:
  std::byte* slot(std::int64_t row) const { return memory_.data() + (row - first_) * row_bytes_; }
  void make_room(std::int64_t count);
  void copy_edge(std::int64_t first, std::int64_t edge, std::int64_t count);

  Arena& arena_;
  std::int64_t rows_;
  std::int64_t row_bytes_;
  std::int64_t before_;
  std::int64_t after_;
  int threads_;
  Arena::Block memory_;
  std::int64_t capacity_;  // rows
  std::int64_t first_;     // row at the start of the memory
  std::int64_t needed_;    // first row still needed
  std::int64_t produced_ = 0;
};

}  // namespace ctfast
