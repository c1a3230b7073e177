#include "encode.h"

#include <algorithm>
#include <string>
#include <vector>

#include "error.h"

namespace ctfast {

namespace {

// Copies an output [1, C, x, y, z] to memory of its own, without the batch axis.
Tensor own(const TensorView& view, const Extent3& latent) {
  if (view.shape.size() != 5 || view.shape[0] != 1 || !std::ranges::equal(std::span(view.shape).subspan(2), latent)) {
    throw Error(ErrorKind::plan,
                "the encoder's output does not have the size that the plan's compression says. Build the plan again.");
  }
  Tensor tensor(DType::f32, {view.shape.begin() + 1, view.shape.end()});
  std::ranges::copy(view.f32(), tensor.f32().begin());
  return tensor;
}

}  // namespace

Encoded encode(Session& encoder, const TensorView& image, const Extent3& compression, const Observer& observer) {
  if (image.dtype != DType::f32 || image.shape.size() != 3 || count(image.shape) == 0) {
    throw Error(ErrorKind::request, "an image to encode should be float32 with axes (x, y, z)");
  }
  Extent3 latent{};
  for (std::size_t axis = 0; axis < 3; ++axis) {
    if (image.shape[axis] % compression[axis] != 0) {
      throw Error(ErrorKind::request, "each extent of an image to encode should be a multiple of " +
                                          std::to_string(compression[axis]) + ", and one is " +
                                          std::to_string(image.shape[axis]));
    }
    latent[axis] = image.shape[axis] / compression[axis];
  }
  report(observer, {"encode", 0, 1});
  const TensorView block{DType::f32, {1, 1, image.shape[0], image.shape[1], image.shape[2]}, image.data};
  const std::vector<NamedTensor> results = encoder.run({{"image", block}});
  Encoded encoded{own(find_tensor(results, "mean"), latent), own(find_tensor(results, "log_variance"), latent)};
  report(observer, {"encode", 1, 1});
  return encoded;
}

}  // namespace ctfast
