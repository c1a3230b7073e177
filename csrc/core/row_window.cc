#include "row_window.h"

#include <algorithm>

#include "error.h"

namespace ctfast {

RowWindow::RowWindow(Arena& arena, std::int64_t rows, std::int64_t row_bytes, std::int64_t before, std::int64_t after,
                     std::int64_t capacity, int threads)
    : arena_(arena),
      rows_(rows),
      row_bytes_(row_bytes),
      before_(before),
      after_(after),
      threads_(threads),
      memory_(arena.allocate(capacity * row_bytes)),
      capacity_(capacity),
      first_(-before),
      needed_(-before) {}

// Moves the needed rows to the start of the memory, or to a larger one.
void RowWindow::make_room(std::int64_t count) {
  if (produced_ + count - first_ <= capacity_) return;
  const std::int64_t from = std::clamp(needed_, first_, produced_);
  const std::int64_t kept = (produced_ - from) * row_bytes_;
  const std::int64_t wanted = produced_ - from + count;
  if (wanted <= capacity_) {
    arena_.memory().move(memory_.data(), slot(from), kept);
  } else {
    Arena::Block larger = arena_.allocate(wanted * row_bytes_);
    arena_.memory().copy({larger.data(), kept}, {slot(from), kept}, kept, 1, threads_);
    memory_ = std::move(larger);
    capacity_ = wanted;
  }
  first_ = from;
}

std::byte* RowWindow::reserve(std::int64_t count) {
  // The rows behind the end come with the last ones.
  make_room(produced_ + count >= rows_ ? count + after_ : count);
  return slot(produced_);
}

void RowWindow::commit(std::int64_t count, std::int64_t skip) {
  if (skip > 0) {
    arena_.memory().move(slot(produced_), slot(produced_ + skip), count * row_bytes_);
  }
  if (produced_ == 0 && count > 0) {
    copy_edge(-before_, 0, before_);
  }
  produced_ += count;
  if (produced_ != rows_) return;
  copy_edge(rows_, rows_ - 1, after_);
}

// Puts copies of the row `edge` where `count` rows from `first` on are.
void RowWindow::copy_edge(std::int64_t first, std::int64_t edge, std::int64_t count) {
  if (count > 0) arena_.memory().copy({slot(first), row_bytes_}, {slot(edge), 0}, row_bytes_, count, threads_);
}

void RowWindow::drop_before(std::int64_t row) { needed_ = std::max(needed_, row); }

const std::byte* RowWindow::row(std::int64_t row) const {
  if (row < first_ || row >= first_ + capacity_) {
    throw Error(ErrorKind::plan, "a row that is not in the window; please report this as a bug");
  }
  return slot(row);
}

}  // namespace ctfast
