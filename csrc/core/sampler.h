// From noise to a latent: a denoiser, with a ControlNet and guidance where asked for, inside a solver's loop.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <variant>

#include "ddpm.h"
#include "progress.h"
#include "session.h"
#include "solver.h"
#include "tensor.h"
#include "time_grid.h"

namespace ctfast {

struct FlowRun {
  Solver solver = Solver::euler;
  TimeGrid grid;
};

struct DdpmRun {
  DdpmSchedule schedule;
  std::int64_t steps = 1000;
};

struct DdimRun {
  DdpmSchedule schedule;
  std::int64_t steps = 50;
  DdimOptions options;
};

using Schedule = std::variant<FlowRun, DdpmRun, DdimRun>;

// What the unguided half of a guided prediction u + scale * (c - u) differs in.
enum class GuidanceKind {
  none,
  modality,  // class label 0
  tumour,    // class label 0 and the condition of the same mask with its tumours removed
};

struct Guidance {
  GuidanceKind kind = GuidanceKind::none;
  double scale = 0.0;  // 0: one conditional pass, as in the official scripts
};

struct SampleInputs {
  std::array<std::int64_t, 4> shape{};  // latent: channels, x, y, z
  std::uint64_t seed = 0;
  std::uint64_t sample = 0;  // number of the volume within a batch
  TensorView latents;        // initial noise, of that shape, instead of the seed's; no data: none
  Schedule schedule;
  std::optional<std::int64_t> class_label;
  std::optional<std::array<double, 3>> spacing;  // mm; the network is given 100 times this
  // Weights of the four body regions (one-hot for a plain request); the network is given 100 times this.
  std::optional<std::array<double, 4>> top_region;
  std::optional<std::array<double, 4>> bottom_region;
  TensorView condition;        // [1 or 2, C0, x, y, z]: the ControlNet's condition embedding; second: without tumours
  double control_scale = 1.0;  // multiplies the ControlNet's residuals
  Guidance guidance;
};

// Returns the latent, float32, of inputs.shape. The ControlNet runs before each call of the denoiser, its residuals go
// from one network to the other without a copy. Inputs that the denoiser does not have are ignored; one that it has and
// the request lacks is Error(request). Throws Error(device) when the result is not finite, Error(cancelled), and what
// the sessions throw. The caller holds both sessions' in_use().
Tensor sample(Session& denoiser, Session* controlnet, const SampleInputs& inputs, const Observer& observer);

}  // namespace ctfast
