// Memory and files that hold the rows of kept tensors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace ctfast {

// Counts what it hands out, and the most that was out at one time.
class Arena {
 public:
  class Block {
   public:
    Block() = default;
    Block(Arena& arena, std::int64_t bytes);
    Block(Block&& other) noexcept;
    Block& operator=(Block&& other) noexcept;
    Block(const Block&) = delete;
    Block& operator=(const Block&) = delete;
    ~Block();

    std::byte* data() const { return data_; }
    std::int64_t bytes() const { return bytes_; }

   private:
    void release() noexcept;

    Arena* arena_ = nullptr;
    std::byte* data_ = nullptr;
    std::int64_t bytes_ = 0;
  };

  // Memory aligned for vector loads, not initialised; given back to the system when the block goes. The arena must
  // outlive it. Throws Error(memory).
  Block allocate(std::int64_t bytes) { return {*this, bytes}; }

  std::int64_t live_bytes() const { return live_; }
  std::int64_t peak_bytes() const { return peak_; }

 private:
  std::int64_t live_ = 0;
  std::int64_t peak_ = 0;
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

// Rows of `width` bytes, `stride` bytes apart, in memory of somebody else.
std::unique_ptr<RowStore> memory_rows(std::byte* first_row, std::int64_t width, std::int64_t stride);

// Rows in a file of its own in `folder`, which has no name and goes with the store. Throws Error(memory) if the folder
// cannot take it.
std::unique_ptr<RowStore> scratch_rows(const std::string& folder, std::int64_t width);

}  // namespace ctfast
