#include "arena.h"

#include <algorithm>
#include <utility>

namespace ctfast {

namespace {

class MemoryRows : public RowStore {
 public:
  MemoryRows(Memory& memory, std::byte* first_row, std::int64_t width, std::int64_t stride)
      : memory_(memory), base_(first_row), width_(width), stride_(stride) {}

  void write(std::int64_t first, std::int64_t count, const std::byte* rows, int threads) override {
    memory_.copy({base_ + first * stride_, stride_}, {const_cast<std::byte*>(rows), width_}, width_, count, threads);
  }

  void read(std::int64_t first, std::int64_t count, std::byte* rows, int threads) const override {
    memory_.copy({rows, width_}, {base_ + first * stride_, stride_}, width_, count, threads);
  }

  std::byte* in_place(std::int64_t first) const override {
    return stride_ == width_ ? base_ + first * stride_ : nullptr;
  }

 private:
  Memory& memory_;
  std::byte* base_;
  std::int64_t width_;
  std::int64_t stride_;
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

void Arena::Block::give_back() noexcept {
  if (arena_ == nullptr) return;
  Arena& arena = *std::exchange(arena_, nullptr);
  arena.live_ -= bytes_;
  arena.kept_bytes_ += bytes_;
  arena.kept_.push_back({std::exchange(data_, nullptr), bytes_});
  arena.shrink_to(arena.limit_);
}

Arena::Block Arena::allocate(std::int64_t bytes) {
  bytes = std::max<std::int64_t>(bytes, 1);
  auto best = kept_.end();
  for (auto kept = kept_.begin(); kept != kept_.end(); ++kept) {
    const bool serves = kept->bytes >= bytes && kept->bytes <= bytes + bytes / 8;
    if (serves && (best == kept_.end() || kept->bytes < best->bytes)) best = kept;
  }
  Kept found{nullptr, bytes};
  if (best != kept_.end()) {
    found = *best;
    kept_.erase(best);
    kept_bytes_ -= found.bytes;
  } else {
    shrink_to(limit_ - bytes);
    found.data = memory_->allocate(bytes);
  }
  live_ += found.bytes;
  peak_ = std::max(peak_, live_);
  return {this, found.data, found.bytes};
}

void Arena::keep_within(std::int64_t bytes) {
  limit_ = bytes;
  shrink_to(bytes);
}

void Arena::shrink_to(std::int64_t bytes) {
  while (!kept_.empty() && live_ + kept_bytes_ > bytes) {
    const auto largest = std::ranges::max_element(kept_, {}, &Kept::bytes);
    kept_bytes_ -= largest->bytes;
    memory_->release(largest->data, largest->bytes);
    kept_.erase(largest);
  }
}

void Arena::clear() {
  for (const Kept& kept : kept_) memory_->release(kept.data, kept.bytes);
  kept_.clear();
  kept_bytes_ = 0;
}

std::unique_ptr<RowStore> memory_rows(Memory& memory, std::byte* first_row, std::int64_t width, std::int64_t stride) {
  return std::make_unique<MemoryRows>(memory, first_row, width, stride);
}

}  // namespace ctfast
