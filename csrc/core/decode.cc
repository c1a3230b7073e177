#include "decode.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "error.h"
#include "stitch.h"

namespace ctfast {

namespace {

std::int64_t voxels(const Extent3& size) { return size[0] * size[1] * size[2]; }

Extent3 scaled(const Extent3& size, const Extent3& by) { return {size[0] * by[0], size[1] * by[1], size[2] * by[2]}; }

// One call of the decoder on [1, C, x, y, z]; the result is the session's memory.
std::span<const float> decode_block(Session& decoder, const TensorView& block, const Extent3& image) {
  const std::vector<NamedTensor> results = decoder.run({{"latent", block}});
  const TensorView& result = find_tensor(results, "image");
  if (result.shape != Shape{1, 1, image[0], image[1], image[2]}) {
    throw Error(ErrorKind::plan,
                "the decoder's output does not have the size that the plan's compression says. Build the plan again.");
  }
  return result.f32();
}

// Copies the window that begins at `start` out of a (C, x, y, z) volume.
void cut(std::span<const float> volume, std::int64_t channels, const Extent3& size, const Extent3& start,
         const Extent3& window, std::span<float> out) {
  auto target = out.begin();
  for (std::int64_t c = 0; c < channels; ++c) {
    for (std::int64_t i = 0; i < window[0]; ++i) {
      for (std::int64_t j = 0; j < window[1]; ++j) {
        const std::int64_t first = ((c * size[0] + start[0] + i) * size[1] + start[1] + j) * size[2] + start[2];
        const auto row = volume.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(window[2]));
        target = std::ranges::copy(row, target).out;
      }
    }
  }
}

void check(const TensorView& latent, const DecodeOptions& options) {
  if (latent.dtype != DType::f32 || latent.shape.size() != 4 || count(latent.shape) == 0) {
    throw Error(ErrorKind::request, "a latent to decode should be float32 with axes (channels, x, y, z)");
  }
  if (!std::isfinite(options.scale_factor) || options.scale_factor == 0.0) {
    throw Error(ErrorKind::request, "the latent's scale factor should be finite and not 0");
  }
  if (options.window && std::ranges::any_of(*options.window, [](std::int64_t extent) { return extent < 1; })) {
    throw Error(ErrorKind::request, "every extent of the decode window should be at least 1");
  }
}

}  // namespace

Tensor decode(Session& decoder, const TensorView& latent, const DecodeOptions& options, const Observer& observer) {
  check(latent, options);
  const std::int64_t channels = latent.shape[0];
  const Extent3 size{latent.shape[1], latent.shape[2], latent.shape[3]};
  const Extent3 image = scaled(size, options.compression);

  Tensor unscaled(DType::f32, {1, channels, size[0], size[1], size[2]});
  const auto factor = static_cast<float>(options.scale_factor);
  std::ranges::transform(latent.f32(), unscaled.f32().begin(), [factor](float value) { return value / factor; });
  Tensor result(DType::f32, {image[0], image[1], image[2]});

  if (!options.window || voxels(size) <= voxels(*options.window)) {
    report(observer, {"decode", 0, 1});
    std::ranges::copy(decode_block(decoder, unscaled.view(), image), result.f32().begin());
    report(observer, {"decode", 1, 1});
    return result;
  }

  const WindowPlan plan = plan_windows(size, *options.window, options.overlap);
  Stitcher stitcher(plan, gaussian_weights(plan.size), size, options.compression, 1, result.f32());
  const Tensor block(DType::f32, {1, channels, plan.size[0], plan.size[1], plan.size[2]});
  const auto total = static_cast<std::int64_t>(plan.starts.size());
  for (std::int64_t i = 0; i < total; ++i) {
    report(observer, {"decode", i, total});
    const auto index = static_cast<std::size_t>(i);
    cut(unscaled.f32(), channels, size, plan.starts[index], plan.size, block.f32());
    stitcher.add(index, decode_block(decoder, block.view(), scaled(plan.size, options.compression)));
  }
  stitcher.finish();
  report(observer, {"decode", total, total});
  return result;
}

}  // namespace ctfast
