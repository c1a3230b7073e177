// From an image to the distribution of its latent: the VAE's encoder.
#pragma once

#include "progress.h"
#include "session.h"
#include "tensor.h"
#include "window.h"

namespace ctfast {

struct Encoded {
  Tensor mean;          // float32 (channels, x, y, z), not multiplied by the scale factor
  Tensor log_variance;  // the same shape
};

// image: float32 (X, Y, Z) in the network's units (0..1 for CT), each extent a multiple of the compression. Reports
// stage "encode" in network calls. Throws Error(request), Error(plan) when the network's outputs have another size,
// Error(cancelled), and what the session throws. The caller holds the session's in_use().
Encoded encode(Session& encoder, const TensorView& image, const Extent3& compression, const Observer& observer);

}  // namespace ctfast
