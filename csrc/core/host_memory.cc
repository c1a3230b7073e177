#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "error.h"
#include "memory.h"
#include "parallel.h"
#include "statistics.h"

namespace ctfast {

namespace {

constexpr std::int64_t kLeastBytes = 1 << 20;  // worth a thread

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

class HostMemory : public Memory {
 public:
  // Mapped, so that the memory goes back to the system at once when it is let go.
  std::byte* allocate(std::int64_t bytes) override {
    void* memory =
        mmap(nullptr, static_cast<std::size_t>(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
      throw Error(ErrorKind::memory, "could not allocate " + std::to_string(bytes) +
                                         " bytes; ask for a smaller size or a smaller memory budget, or free memory");
    }
    return static_cast<std::byte*>(memory);
  }

  void release(std::byte* data, std::int64_t bytes) noexcept override { munmap(data, static_cast<std::size_t>(bytes)); }

  void copy(const Pieces& target, const Pieces& source, std::int64_t width, std::int64_t count, int threads) override {
    parallel_for(count * width, threads, kLeastBytes, [&](int, std::int64_t first, std::int64_t last) {
      while (first < last) {
        const std::int64_t piece = first / width;
        const std::int64_t from = first % width;
        const std::int64_t bytes = std::min(width - from, last - first);
        std::memcpy(target.data + piece * target.stride + from, source.data + piece * source.stride + from,
                    static_cast<std::size_t>(bytes));
        first += bytes;
      }
    });
  }

  void move(std::byte* target, const std::byte* source, std::int64_t bytes) override {
    std::memmove(target, source, static_cast<std::size_t>(bytes));
  }

  std::unique_ptr<RowSums> row_sums(std::int64_t channels) override { return std::make_unique<ChannelSums>(channels); }

  std::unique_ptr<RowStore> spilled_rows(const std::string& folder, std::int64_t /*rows*/,
                                         std::int64_t width) override {
    return std::make_unique<ScratchRows>(folder, width);
  }
};

}  // namespace

std::shared_ptr<Memory> host_memory() { return std::make_shared<HostMemory>(); }

}  // namespace ctfast
