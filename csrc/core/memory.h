// Where the tensors between the stages of a program lie, and what moves and adds up their rows: this computer's memory
// here, a device's in csrc/sessions. What an address means is the memory's own affair; nothing else reads through it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tensor.h"

namespace ctfast {

// Of a tensor, per channel: sums of its values and of their squares.
struct ChannelTotals {
  std::vector<double> sums;
  std::vector<double> squares;
};

// Adds up a tensor that comes in parts.
class RowSums {
 public:
  virtual ~RowSums() = default;
  // Channels-last values, float32 or bfloat16.
  virtual void add(const void* values, DType dtype, std::int64_t voxels, int threads) = 0;
  virtual ChannelTotals totals() const = 0;
};

// The rows of one kept tensor.
class RowStore {
 public:
  virtual ~RowStore() = default;
  virtual void write(std::int64_t first, std::int64_t count, const std::byte* rows, int threads) = 0;
  virtual void read(std::int64_t first, std::int64_t count, std::byte* rows, int threads) const = 0;
  // Where rows from `first` on lie one behind the other in memory; null if they do not.
  virtual std::byte* in_place(std::int64_t first) const = 0;
};

// Pieces of `width` bytes whose starts are `stride` bytes apart.
struct Pieces {
  std::byte* data = nullptr;
  std::int64_t stride = 0;
};

class Memory {
 public:
  virtual ~Memory() = default;

  // Aligned for vector loads, not initialised. Throws Error(memory).
  virtual std::byte* allocate(std::int64_t bytes) = 0;
  virtual void release(std::byte* data, std::int64_t bytes) noexcept = 0;

  // Copies `count` pieces; source and target do not overlap.
  virtual void copy(const Pieces& target, const Pieces& source, std::int64_t width, std::int64_t count,
                    int threads) = 0;
  // The same of one piece, where they may overlap.
  virtual void move(std::byte* target, const std::byte* source, std::int64_t bytes) = 0;

  virtual std::unique_ptr<RowSums> row_sums(std::int64_t channels) = 0;

  // Somewhere larger and slower for `rows` rows of `width` bytes: for this computer a file in `folder` that has no name
  // and goes with the store. Throws Error(memory).
  virtual std::unique_ptr<RowStore> spilled_rows(const std::string& folder, std::int64_t rows, std::int64_t width) = 0;
};

std::shared_ptr<Memory> host_memory();

}  // namespace ctfast
