#include "tensor.h"

#include <limits>
#include <new>
#include <string>
#include <utility>

#include "error.h"

namespace ctfast {
namespace {

constexpr std::size_t kAlignment = 64;  // one cache line, one AVX-512 register

std::string text(const Shape& shape) {
  std::string out = "[";
  for (const std::int64_t extent : shape) out += (out.size() > 1 ? ", " : "") + std::to_string(extent);
  return out + "]";
}

std::size_t checked_bytes(DType dtype, const Shape& shape) {
  std::size_t bytes = size_of(dtype);
  for (const std::int64_t extent : shape) {
    if (extent < 0) throw Error(ErrorKind::request, "expected extents of 0 or more, found shape " + text(shape));
    const auto factor = static_cast<std::size_t>(extent);
    if (factor != 0 && bytes > static_cast<std::size_t>(std::numeric_limits<std::ptrdiff_t>::max()) / factor) {
      throw Error(ErrorKind::memory, "an array of shape " + text(shape) + " is larger than the address space");
    }
    bytes *= factor;
  }
  return bytes;
}

}  // namespace

Tensor::Tensor(DType dtype, Shape shape) {
  const std::size_t bytes = checked_bytes(dtype, shape);
  void* data = ::operator new(bytes, std::align_val_t{kAlignment}, std::nothrow);
  if (data == nullptr) {
    throw Error(ErrorKind::memory, "could not allocate " + std::to_string(bytes) + " bytes for an array of shape " +
                                       text(shape) + "; ask for a smaller volume or free memory");
  }
  memory_ = std::shared_ptr<void>(data, [](void* p) { ::operator delete(p, std::align_val_t{kAlignment}); });
  view_ = {dtype, std::move(shape), data};
}

}  // namespace ctfast
