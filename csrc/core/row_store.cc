#include "row_store.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "error.h"
#include "parallel.h"

namespace ctfast {

namespace {

constexpr std::int64_t kLeastBytes = 1 << 20;  // worth a thread

class MemoryRows : public RowStore {
 public:
  MemoryRows(std::byte* first_row, std::int64_t width, std::int64_t stride)
      : base_(first_row), width_(width), stride_(stride) {}

  void write(std::int64_t first, std::int64_t count, const std::byte* rows, int threads) override {
    for_runs(count, threads, [&](std::int64_t row, std::int64_t from, std::size_t bytes) {
      std::memcpy(base_ + (first + row) * stride_ + from, rows + row * width_ + from, bytes);
    });
  }

  void read(std::int64_t first, std::int64_t count, std::byte* rows, int threads) const override {
    for_runs(count, threads, [&](std::int64_t row, std::int64_t from, std::size_t bytes) {
      std::memcpy(rows + row * width_ + from, base_ + (first + row) * stride_ + from, bytes);
    });
  }

  std::byte* in_place(std::int64_t first) const override {
    return stride_ == width_ ? base_ + first * stride_ : nullptr;
  }

 private:
  // Calls body(row, first byte of it, bytes) for pieces that make up all rows, on several threads.
  template <typename Body>
  void for_runs(std::int64_t count, int threads, const Body& body) const {
    parallel_for(count * width_, threads, kLeastBytes, [&](int, std::int64_t first, std::int64_t last) {
      while (first < last) {
        const std::int64_t row = first / width_;
        const std::int64_t from = first % width_;
        const std::int64_t bytes = std::min(width_ - from, last - first);
        body(row, from, static_cast<std::size_t>(bytes));
        first += bytes;
      }
    });
  }

  std::byte* base_;
  std::int64_t width_;
  std::int64_t stride_;
};

class ScratchRows : public RowStore {
 public:
  ScratchRows(const std::string& folder, std::int64_t width) : folder_(folder), width_(width) {
    std::string name = folder + "/ctfast-XXXXXX";
    file_ = mkstemp(name.data());
    if (file_ < 0) fail("a scratch file could not be made");
    unlink(name.c_str());
  }
  ScratchRows(const ScratchRows&) = delete;
  ScratchRows& operator=(const ScratchRows&) = delete;
  ~ScratchRows() override { close(file_); }

  void write(std::int64_t first, std::int64_t count, const std::byte* rows, int /*threads*/) override {
    in_full(count * width_, "writing to", [&](std::int64_t done, std::size_t left) {
      return pwrite(file_, rows + done, left, first * width_ + done);
    });
  }

  void read(std::int64_t first, std::int64_t count, std::byte* rows, int /*threads*/) const override {
    in_full(count * width_, "reading from", [&](std::int64_t done, std::size_t left) {
      return pread(file_, rows + done, left, first * width_ + done);
    });
  }

  std::byte* in_place(std::int64_t /*first*/) const override { return nullptr; }

 private:
  // Repeats a call that may do less than it is asked to, or be interrupted.
  template <typename Call>
  void in_full(std::int64_t bytes, const char* what, const Call& call) const {
    for (std::int64_t done = 0; done < bytes;) {
      const ssize_t now = call(done, static_cast<std::size_t>(bytes - done));
      if (now < 0 && errno == EINTR) continue;
      if (now <= 0) fail(std::string(what) + " a scratch file failed");
      done += now;
    }
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw Error(ErrorKind::memory, what + " in '" + folder_ + "': " + std::strerror(errno) +
                                       ". Make room there or name another folder in the environment's TMPDIR");
  }

  std::string folder_;
  std::int64_t width_;
  int file_ = -1;
};

}  // namespace

Arena::Block::Block(Block&& other) noexcept
    : arena_(std::exchange(other.arena_, nullptr)),
      data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)) {}

Arena::Block& Arena::Block::operator=(Block&& other) noexcept {
  if (this == &other) return *this;
  give_back();
  arena_ = std::exchange(other.arena_, nullptr);
  data_ = std::exchange(other.data_, nullptr);
  bytes_ = std::exchange(other.bytes_, 0);
  return *this;
}

Arena::Block::~Block() { give_back(); }

// To the arena, or, from the arena's own list, to the system.
void Arena::Block::give_back() noexcept {
  if (data_ == nullptr) return;
  if (arena_ == nullptr) {
    munmap(data_, static_cast<std::size_t>(bytes_));
    data_ = nullptr;
    return;
  }
  Arena& arena = *std::exchange(arena_, nullptr);
  arena.live_ -= bytes_;
  arena.kept_bytes_ += bytes_;
  arena.kept_.push_back(std::move(*this));
  arena.shrink_to(arena.limit_);
}

Arena::Block Arena::allocate(std::int64_t bytes) {
  bytes = std::max<std::int64_t>(bytes, 1);
  auto best = kept_.end();
  for (auto block = kept_.begin(); block != kept_.end(); ++block) {
    const bool serves = block->bytes_ >= bytes && block->bytes_ <= bytes + bytes / 8;
    if (serves && (best == kept_.end() || block->bytes_ < best->bytes_)) best = block;
  }
  Block block;
  if (best != kept_.end()) {
    block = std::move(*best);
    kept_.erase(best);
    kept_bytes_ -= block.bytes_;
  } else {
    shrink_to(limit_ - bytes);
    // Mapped, so that the memory goes back to the system at once when the arena lets it go.
    void* memory =
        mmap(nullptr, static_cast<std::size_t>(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
      throw Error(ErrorKind::memory, "could not allocate " + std::to_string(bytes) +
                                         " bytes; ask for a smaller size or a smaller memory budget, or free memory");
    }
    block.data_ = static_cast<std::byte*>(memory);
    block.bytes_ = bytes;
  }
  block.arena_ = this;
  live_ += block.bytes_;
  peak_ = std::max(peak_, live_);
  return block;
}

void Arena::keep_within(std::int64_t bytes) {
  limit_ = bytes;
  shrink_to(bytes);
}

void Arena::shrink_to(std::int64_t bytes) {
  while (!kept_.empty() && live_ + kept_bytes_ > bytes) {
    const auto largest = std::ranges::max_element(kept_, {}, &Block::bytes_);
    kept_bytes_ -= largest->bytes_;
    kept_.erase(largest);
  }
}

void Arena::clear() {
  kept_.clear();
  kept_bytes_ = 0;
}

std::unique_ptr<RowStore> memory_rows(std::byte* first_row, std::int64_t width, std::int64_t stride) {
  return std::make_unique<MemoryRows>(first_row, width, stride);
}

std::unique_ptr<RowStore> scratch_rows(const std::string& folder, std::int64_t width) {
  return std::make_unique<ScratchRows>(folder, width);
}

}  // namespace ctfast
