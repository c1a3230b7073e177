// Dense, contiguous, row-major host arrays: what crosses between the solver loop, sessions and bindings.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace ctfast {

enum class DType : std::uint8_t { f32, i64, u8, bf16 };

constexpr std::size_t size_of(DType type) {
  switch (type) {
    case DType::f32: return 4;
    case DType::i64: return 8;
    case DType::u8: return 1;
    case DType::bf16: return 2;
  }
  return 0;
}

using Shape = std::vector<std::int64_t>;

inline std::size_t count(const Shape& shape) {
  std::size_t n = 1;
  for (const std::int64_t extent : shape) n *= static_cast<std::size_t>(extent);
  return n;
}

// Memory somebody else owns.
struct TensorView {
  DType dtype = DType::f32;
  Shape shape;
  void* data = nullptr;

  std::span<float> f32() const { return {static_cast<float*>(data), count(shape)}; }
  std::size_t bytes() const { return count(shape) * size_of(dtype); }
};

// Memory of its own, aligned for vector loads, not initialised.
class Tensor {
 public:
  Tensor() = default;
  Tensor(DType dtype, Shape shape);

  const TensorView& view() const { return view_; }
  std::span<float> f32() const { return view_.f32(); }
  const Shape& shape() const { return view_.shape; }
  explicit operator bool() const { return view_.data != nullptr; }

 private:
  std::shared_ptr<void> memory_;
  TensorView view_;
};

}  // namespace ctfast
