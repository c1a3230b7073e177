// A network as a program: stages that run one after the other on slabs of rows, and the tensors between them.
//
// A stage is what lies between two normalisations: at most one convolution with a halo, run by a session of its own.
// Tensors are channels-last, [rows, y, x, channels]; rows run along z, so a slab of them is one piece of memory and the
// last stage's rows come out in the order of a NIfTI file. Extents here are (z, y, x).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "window.h"

namespace ctfast {

// Group norm (Wu and He 2018) of a stage's input. Its statistics are the whole tensor's; the stage itself is given one
// scale and shift per channel.
struct GroupNorm {
  std::int64_t groups = 1;
  double eps = 0.0;
  std::vector<float> gamma;  // one per channel
  std::vector<float> beta;
};

enum class SlabGrid { input, output };

// Tells a stage which rows of its slab lie inside the volume: rows [first - before, last + after) of one of its grids.
struct SlabMask {
  SlabGrid grid = SlabGrid::input;
  std::int64_t before = 0;
  std::int64_t after = 0;
};

struct StageSpec {
  std::string name;
  std::string reads;
  std::string writes;
  std::string adds;           // a tensor that is added to the result; empty: none
  std::int64_t channels = 1;  // of `writes`
  Extent3 up{1, 1, 1};        // output extent = input extent * up / down - skip (along z only)
  Extent3 down{1, 1, 1};
  std::int64_t before = 0;  // rows of the input that the first row of output needs in front of its own
  std::int64_t after = 0;   // and the last one behind
  std::int64_t skip = 0;    // leading rows of the result that are dropped
  std::optional<GroupNorm> norm;
  std::optional<SlabMask> mask;
  std::int64_t multiply_adds = 0;  // per voxel of output
};

struct Stage : StageSpec {
  int input = 0;      // index of `reads`
  int output = 0;     // index of `writes`
  int residual = -1;  // index of `adds`

  // Rows [from, to) of the input that rows [first, last) of the result need, halo included; some may lie outside it.
  std::int64_t needs_from(std::int64_t first) const { return first * down[0] / up[0] - before; }
  std::int64_t needs_to(std::int64_t last) const { return last * down[0] / up[0] + after; }
  // How many these are for so many rows of the result, beginning at a multiple of `up`.
  std::int64_t input_rows(std::int64_t rows) const { return needs_to(rows) - needs_from(0); }
};

// Index of a tensor or a stage.
constexpr std::size_t at(int index) { return static_cast<std::size_t>(index); }

struct ProgramTensor {
  std::string name;
  std::int64_t channels = 1;
  int producer = -1;         // the stage that writes it; -1: the program's input
  std::vector<int> readers;  // stages that read or add it
  bool normed = false;       // whether a reader needs its statistics
};

class Program {
 public:
  // Stages in an order in which each reads what was written before. Throws Error(plan) if they do not fit together.
  Program(std::string input, std::int64_t input_channels, const std::string& output, std::vector<StageSpec> stages);

  const std::vector<Stage>& stages() const { return stages_; }
  const std::vector<ProgramTensor>& tensors() const { return tensors_; }
  int output() const { return output_; }
  static constexpr int kInput = 0;  // index of the input tensor

  // Rows of a stage's result before its first ones are dropped.
  static std::int64_t raw_rows(const Stage& stage, const std::vector<Extent3>& extents) {
    return extents[at(stage.output)][0] + stage.skip;
  }

  // Extents of every tensor for an input of `size`. Throws Error(request) if a stage does not divide them.
  std::vector<Extent3> extents(const Extent3& size) const;

 private:
  std::vector<Stage> stages_;
  std::vector<ProgramTensor> tensors_;
  int output_ = 0;
};

}  // namespace ctfast
