// Memory that is used again and again, counted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "memory.h"

namespace ctfast {

// Hands out memory, counts it, and keeps what comes back for the next one who asks: getting it from the system takes
// several times as long. For one user at a time.
class Arena {
 public:
  class Block {
   public:
    Block() = default;
    Block(Block&& other) noexcept;
    Block& operator=(Block&& other) noexcept;
    Block(const Block&) = delete;
    Block& operator=(const Block&) = delete;
    ~Block();

    std::byte* data() const { return data_; }
    std::int64_t bytes() const { return bytes_; }

   private:
    friend class Arena;
    Block(Arena* arena, std::byte* data, std::int64_t bytes) : arena_(arena), data_(data), bytes_(bytes) {}
    void give_back() noexcept;

    Arena* arena_ = nullptr;
    std::byte* data_ = nullptr;
    std::int64_t bytes_ = 0;
  };

  explicit Arena(std::shared_ptr<Memory> memory = host_memory()) : memory_(std::move(memory)) {}
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena() { clear(); }

  // Not initialised; its size is rounded up where a kept block serves. The arena must
  // outlive it. Throws Error(memory).
  Block allocate(std::int64_t bytes);

  // Lets go of kept blocks, the largest first, until what is handed out and what is kept are within `bytes`; and keeps
  // to that from now on. Handing out is not limited.
  void keep_within(std::int64_t bytes);
  // Gives all kept blocks to the system.
  void clear();

  Memory& memory() const { return *memory_; }

  std::int64_t kept_bytes() const { return kept_bytes_; }
  std::int64_t peak_bytes() const { return peak_; }  // most that was handed out at one time since forget_peak()
  void forget_peak() { peak_ = live_; }

 private:
  struct Kept {
    std::byte* data;
    std::int64_t bytes;
  };

  void shrink_to(std::int64_t bytes);

  std::shared_ptr<Memory> memory_;
  std::vector<Kept> kept_;
  std::int64_t limit_ = 0;
  std::int64_t kept_bytes_ = 0;
  std::int64_t live_ = 0;
  std::int64_t peak_ = 0;
};

// Rows of `width` bytes, `stride` bytes apart, in memory of somebody else.
std::unique_ptr<RowStore> memory_rows(Memory& memory, std::byte* first_row, std::int64_t width, std::int64_t stride);

}  // namespace ctfast
