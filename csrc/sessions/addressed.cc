#include "sessions/addressed.h"

#include <pybind11/stl.h>

#include <cstdint>
#include <utility>

#include "core/error.h"

namespace ctfast {

namespace py = pybind11;

namespace {

std::uintptr_t address_of(const void* data) { return reinterpret_cast<std::uintptr_t>(data); }

const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::f32: return "f32";
    case DType::i64: return "i64";
    case DType::u8: return "u8";
    case DType::bf16: return "bf16";
  }
  return "";
}

// A Python object that may be let go of on any thread.
class Held {
 public:
  explicit Held(py::object object) : object_(std::move(object)) {}
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;
  ~Held() {
    const py::gil_scoped_acquire lock;
    object_ = py::object();
  }

  const py::object& operator*() const { return object_; }

 private:
  py::object object_;
};

class PythonSums : public RowSums {
 public:
  explicit PythonSums(py::object sums) : sums_(std::move(sums)) {}

  void add(const void* values, DType dtype, std::int64_t voxels, int /*threads*/) override {
    const py::gil_scoped_acquire lock;
    (*sums_).attr("add")(address_of(values), name_of(dtype), voxels);
  }

  ChannelTotals totals() const override {
    const py::gil_scoped_acquire lock;
    auto [sums, squares] = (*sums_).attr("totals")().cast<std::pair<std::vector<double>, std::vector<double>>>();
    return {std::move(sums), std::move(squares)};
  }

 private:
  Held sums_;
};

class PythonRows : public RowStore {
 public:
  explicit PythonRows(py::object rows) : rows_(std::move(rows)) {}

  void write(std::int64_t first, std::int64_t count, const std::byte* rows, int /*threads*/) override {
    const py::gil_scoped_acquire lock;
    (*rows_).attr("write")(first, count, address_of(rows));
  }

  void read(std::int64_t first, std::int64_t count, std::byte* rows, int /*threads*/) const override {
    const py::gil_scoped_acquire lock;
    (*rows_).attr("read")(first, count, address_of(rows));
  }

  std::byte* in_place(std::int64_t /*first*/) const override { return nullptr; }

 private:
  Held rows_;
};

class PythonMemory : public Memory {
 public:
  explicit PythonMemory(py::object memory) : memory_(std::move(memory)) {}

  std::byte* allocate(std::int64_t bytes) override {
    const py::gil_scoped_acquire lock;
    return reinterpret_cast<std::byte*>((*memory_).attr("allocate")(bytes).cast<std::uintptr_t>());
  }

  void release(std::byte* data, std::int64_t /*bytes*/) noexcept override {
    const py::gil_scoped_acquire lock;
    try {
      (*memory_).attr("release")(address_of(data));
    } catch (py::error_already_set& error) {
      error.discard_as_unraisable("ctfast: release of memory");
    }
  }

  void copy(const Pieces& target, const Pieces& source, std::int64_t width, std::int64_t count,
            int /*threads*/) override {
    const py::gil_scoped_acquire lock;
    (*memory_).attr("copy")(address_of(target.data), target.stride, address_of(source.data), source.stride, width,
                            count);
  }

  void move(std::byte* target, const std::byte* source, std::int64_t bytes) override {
    const py::gil_scoped_acquire lock;
    (*memory_).attr("move")(address_of(target), address_of(source), bytes);
  }

  std::unique_ptr<RowSums> row_sums(std::int64_t channels) override {
    const py::gil_scoped_acquire lock;
    return std::make_unique<PythonSums>((*memory_).attr("row_sums")(channels));
  }

  std::unique_ptr<RowStore> spilled_rows(const std::string& /*folder*/, std::int64_t rows,
                                         std::int64_t width) override {
    const py::gil_scoped_acquire lock;
    return std::make_unique<PythonRows>((*memory_).attr("spilled_rows")(rows, width));
  }

 private:
  Held memory_;
};

}  // namespace

AddressedSession::AddressedSession(std::vector<std::string> inputs, py::function function)
    : inputs_(std::move(inputs)), function_(std::move(function)) {}

std::vector<NamedTensor> AddressedSession::run(const std::vector<NamedTensor>& /*inputs*/) {
  throw Error(ErrorKind::request, "this stage is told where to write: it runs inside a program only");
}

void AddressedSession::run_into(const std::vector<NamedTensor>& inputs, const TensorView& output) {
  const py::gil_scoped_acquire lock;
  py::dict arguments;
  for (const auto& [name, view] : inputs) arguments[py::str(name)] = addressed(view);
  function_(arguments, addressed(output));
}

py::tuple addressed(const TensorView& view) {
  return py::make_tuple(name_of(view.dtype), py::tuple(py::cast(view.shape)), address_of(view.data));
}

std::shared_ptr<Memory> python_memory(py::object memory) { return std::make_shared<PythonMemory>(std::move(memory)); }

}  // namespace ctfast
