// Runs a program on slabs, pass by pass, as a strategy says.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "arena.h"
#include "planner.h"
#include "progress.h"
#include "session.h"
#include "tensor.h"

namespace ctfast {

// The session of a stage. Asked for once per pass; what it holds is released when the pass is over. Inputs: "x";
// "scale" and "shift" where the stage has a norm, "mask" where it has one, "residual" where it adds a tensor. One
// output, "y". "x", "residual" and "y" lie in the arena's memory, the others in this computer's.
using OpenStage = std::function<std::shared_ptr<Session>(const Stage&)>;

// Takes finished rows of the output, in order: float32 [rows, y, x, channels] in the arena's memory, valid during the
// call.
using RowSink = std::function<void(std::int64_t first, const TensorView& rows)>;

struct WalkOptions {
  DType element = DType::f32;    // of tensors between stages: f32 or bf16
  int threads = 1;               // for what the walker does itself: copying rows, statistics
  std::string scratch;           // folder for spilled tensors
  std::string stage = "decode";  // as progress calls it
};

struct WalkResult {
  std::int64_t peak_bytes = 0;  // of the walker's own memory: kept tensors, windows, results of sinks
};

// input: float32 [rows, y, x, channels] in the arena's memory. Reports progress in session calls. Throws Error(request)
// for an input that does not fit the program, Error(plan) for a stage that does not do what the program says,
// Error(memory), Error(cancelled), and what sessions and sink throw; nothing is left behind then.
//
// Memory comes from the arena, which keeps it for the next run: never more than the strategy's predicted peak in all.
WalkResult run_program(const Program& program, const OpenStage& open_stage, const TensorView& input,
                       const Strategy& strategy, const WalkOptions& options, Arena& arena, const RowSink& sink,
                       const Observer& observer);

}  // namespace ctfast
