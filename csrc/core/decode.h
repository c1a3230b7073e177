// From a latent to an image: the VAE's decoder on the whole volume or on overlapping windows.
#pragma once

#include <optional>

#include "progress.h"
#include "session.h"
#include "tensor.h"
#include "window.h"

namespace ctfast {

struct DecodeOptions {
  double scale_factor = 1.0;  // the latent is divided by it
  Extent3 compression{4, 4, 4};
  std::optional<Extent3> window;  // in latent voxels; none: the whole volume in one call
  double overlap = 0.4;
};

// latent: float32 (channels, x, y, z). Returns float32 (X, Y, Z), the decoder's output before the map to intensities.
// With a window, a latent of no more voxels than the window has is still decoded in one call; otherwise windows cut to
// the latent's size are blended by Gaussian weights: both as MONAI and the official scripts do it. Windows change the
// group norms' statistics, so the result differs from the whole volume's. Reports stage "decode" in network calls.
// Throws Error(request), Error(plan) when the network's output has another size, Error(cancelled), and what the session
// throws. The caller holds the session's in_use().
Tensor decode(Session& decoder, const TensorView& latent, const DecodeOptions& options, const Observer& observer);

}  // namespace ctfast
