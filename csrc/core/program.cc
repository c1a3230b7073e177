#include "program.h"

#include <algorithm>
#include <utility>

#include "error.h"

namespace ctfast {

namespace {

[[noreturn]] void refuse(const std::string& what) {
  throw Error(ErrorKind::plan, "the plan's program does not fit together: " + what + ". Build the plan again.");
}

void check(const StageSpec& stage, std::int64_t input_channels) {
  const std::string who = "stage '" + stage.name + "'";
  const auto positive = [](std::int64_t value) { return value >= 1 && value <= 64; };
  if (!std::ranges::all_of(stage.up, positive) || !std::ranges::all_of(stage.down, positive)) {
    refuse(who + " should scale by 1 to 64");
  }
  if (stage.channels < 1 || stage.before < 0 || stage.after < 0 || stage.skip < 0 || stage.multiply_adds < 0) {
    refuse(who + " has a negative count");
  }
  if (stage.mask && (stage.mask->before < 0 || stage.mask->after < 0)) refuse(who + " has a mask of negative extent");
  if (!stage.norm) return;
  const GroupNorm& norm = *stage.norm;
  const auto channels = static_cast<std::size_t>(input_channels);
  if (norm.groups < 1 || input_channels % norm.groups != 0) refuse(who + " has groups that do not divide the channels");
  if (norm.gamma.size() != channels || norm.beta.size() != channels) {
    refuse(who + " should have " + std::to_string(channels) + " norm weights and has " +
           std::to_string(norm.gamma.size()));
  }
}

}  // namespace

Program::Program(std::string input, std::int64_t input_channels, const std::string& output,
                 std::vector<StageSpec> stages) {
  if (input_channels < 1) refuse("the input has no channels");
  tensors_.push_back({std::move(input), input_channels, -1, {}, false});
  const auto index_of = [&](const std::string& name, const std::string& stage) {
    const auto found = std::ranges::find(tensors_, name, &ProgramTensor::name);
    if (found == tensors_.end()) refuse("stage '" + stage + "' reads '" + name + "', which no stage before it writes");
    return static_cast<int>(found - tensors_.begin());
  };
  for (StageSpec& spec : stages) {
    Stage stage{std::move(spec)};
    const int number = static_cast<int>(stages_.size());
    stage.input = index_of(stage.reads, stage.name);
    ProgramTensor& source = tensors_[static_cast<std::size_t>(stage.input)];
    check(stage, source.channels);
    source.readers.push_back(number);
    source.normed = source.normed || stage.norm.has_value();
    if (!stage.adds.empty()) {
      stage.residual = index_of(stage.adds, stage.name);
      ProgramTensor& added = tensors_[static_cast<std::size_t>(stage.residual)];
      if (stage.skip > 0) refuse("stage '" + stage.name + "' both adds a tensor and drops rows");
      if (added.channels != stage.channels) refuse("stage '" + stage.name + "' adds a tensor of other channels");
      added.readers.push_back(number);
    }
    if (std::ranges::find(tensors_, stage.writes, &ProgramTensor::name) != tensors_.end()) {
      refuse("two stages write '" + stage.writes + "'");
    }
    stage.output = static_cast<int>(tensors_.size());
    tensors_.push_back({stage.writes, stage.channels, number, {}, false});
    stages_.push_back(std::move(stage));
  }
  if (stages_.empty() || tensors_.back().name != output) refuse("the last stage does not write '" + output + "'");
  output_ = static_cast<int>(tensors_.size()) - 1;
  for (const ProgramTensor& tensor : tensors_) {
    if (tensor.readers.empty() && tensor.name != output) refuse("no stage reads '" + tensor.name + "'");
  }
}

std::vector<Extent3> Program::extents(const Extent3& size) const {
  std::vector<Extent3> all{size};
  for (const Stage& stage : stages_) {
    Extent3 extent = all[static_cast<std::size_t>(stage.input)];
    for (std::size_t axis = 0; axis < 3; ++axis) {
      const std::int64_t enlarged = extent[axis] * stage.up[axis];
      extent[axis] = enlarged / stage.down[axis] - (axis == 0 ? stage.skip : 0);
      if (enlarged % stage.down[axis] != 0 || extent[axis] < 1) {
        throw Error(ErrorKind::request, "an extent of " + std::to_string(size[axis]) + " along " + "zyx"[axis] +
                                            " does not fit the network: stage '" + stage.name + "' divides by " +
                                            std::to_string(stage.down[axis]));
      }
    }
    if (stage.residual >= 0 && all[static_cast<std::size_t>(stage.residual)] != extent) {
      refuse("stage '" + stage.name + "' adds a tensor of another size");
    }
    all.push_back(extent);
  }
  return all;
}

}  // namespace ctfast
