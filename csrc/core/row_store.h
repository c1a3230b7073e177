// Memory and files that hold the rows of kept tensors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace ctfast {

// Hands out memory, counts it, and keeps what comes back for the next one who asks: a page's first use takes several
// times as long as later ones. For one user at a time.
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
    void give_back() noexcept;

    Arena* arena_ = nullptr;
    std::byte* data_ = nullptr;
    std::int64_t bytes_ = 0;
  };

  Arena() = default;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena() { clear(); }

  // Memory aligned for vector loads, not initialised; its size is rounded up where a kept block serves. The arena must
  // outlive it. Throws Error(memory).
  Block allocate(std::int64_t bytes);

  // Lets go of kept blocks, the largest first, until what is handed out and what is kept are within `bytes`; and keeps
  // to that from now on. Handing out is not limited.
  void keep_within(std::int64_t bytes);
  // Gives all kept blocks to the system.
  void clear();

  std::int64_t kept_bytes() const { return kept_bytes_; }
  std::int64_t peak_bytes() const { return peak_; }  // most that was handed out at one time since forget_peak()
  void forget_peak() { peak_ = live_; }

 private:
  void shrink_to(std::int64_t bytes);

  std::vector<Block> kept_;
  std::int64_t limit_ = 0;
  std::int64_t kept_bytes_ = 0;
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
