// Sizes of slabs: rows per call, and the memory that a pass needs beside the tensors it keeps.
#include <algorithm>
#include <numeric>

#include "planner.h"

namespace ctfast {

namespace {

std::int64_t voxels(const Extent3& extent, std::int64_t rows) { return rows * extent[1] * extent[2]; }

bool enlarges(const Stage& stage) {
  return std::ranges::any_of(stage.up, [](std::int64_t factor) { return factor > 1; });
}

// What a session holds while it runs: the input after normalisation and activation; for an enlarging stage the enlarged
// input and its part within the slab; the convolution's result before the rest is done to it, and a residual beside it.
std::int64_t stage_workspace(const Program& program, const std::vector<Extent3>& extents, const Stage& stage,
                             std::int64_t rows, std::int64_t element_bytes) {
  const std::int64_t channels = program.tensors()[at(stage.input)].channels;
  std::int64_t elements = 0;
  if (stage.norm || (stage.mask && stage.mask->grid == SlabGrid::input)) {
    elements += voxels(extents[at(stage.input)], stage.input_rows(rows)) * channels;
  }
  if (enlarges(stage)) elements += voxels(extents[at(stage.output)], 2 * rows + 6) * channels;
  elements += voxels(extents[at(stage.output)], rows) * stage.channels * (stage.residual >= 0 ? 2 : 1);
  return elements * element_bytes;
}

// The largest divisor of `total` between limit / 2 and limit that is a multiple of `step`; else limit.
std::int64_t even_part(std::int64_t total, std::int64_t limit, std::int64_t step) {
  for (std::int64_t rows = limit; rows * 2 >= limit && rows >= step; rows -= step) {
    if (total % rows == 0) return rows;
  }
  return limit;
}

// Bytes of the windows through which a pass's stages read.
std::int64_t window_bytes(const Program& program, const std::vector<Extent3>& extents, const Schedule& schedule,
                          const Pass& pass, const std::vector<std::int64_t>& rows, std::int64_t element_bytes) {
  std::int64_t total = 0;
  const auto streamed = [&](int tensor) {
    const int producer = program.tensors()[at(tensor)].producer;
    return std::ranges::find(pass.stages, producer) != pass.stages.end() &&
           std::ranges::find(pass.sinks, producer) == pass.sinks.end();
  };
  // A window serves all that read a tensor: it holds what the slowest still needs, and of a streamed one a slab more.
  for (int tensor = 0; tensor < program.output(); ++tensor) {
    std::int64_t needed = 0;
    std::int64_t readers = 0;
    for (const int reader : program.tensors()[at(tensor)].readers) {
      if (std::ranges::find(pass.stages, reader) == pass.stages.end()) continue;
      const Stage& stage = program.stages()[at(reader)];
      if (stage.input != tensor && !streamed(tensor)) continue;
      needed = std::max(needed, stage.input == tensor ? stage.input_rows(rows[at(reader)]) : rows[at(reader)]);
      ++readers;
    }
    if (readers > 0 && streamed(tensor)) {
      needed += (readers > 1 ? 2 : 1) * rows[at(program.tensors()[at(tensor)].producer)];
    }
    total += needed * row_bytes(program, extents, tensor, element_bytes);
  }
  // A kept tensor that is added has one of its own, unless its rows lie one behind the other.
  for (const int number : pass.stages) {
    const Stage& stage = program.stages()[at(number)];
    if (stage.residual < 0 || streamed(stage.residual)) continue;
    const Place& place = schedule.places[at(stage.residual)];
    const std::int64_t width = row_bytes(program, extents, stage.residual, element_bytes);
    const bool in_one_piece = place.slot >= 0 && schedule.slots[at(place.slot)].row_bytes == width;
    if (!in_one_piece) total += rows[at(number)] * width;
  }
  return total;
}

}  // namespace

std::int64_t call_bytes(const Program& program, const std::vector<Extent3>& extents, const Stage& stage,
                        std::int64_t rows, std::int64_t element_bytes) {
  return row_bytes(program, extents, stage.input, element_bytes) * stage.input_rows(rows) +
         row_bytes(program, extents, stage.output, element_bytes) * rows +
         stage_workspace(program, extents, stage, rows, element_bytes);
}

std::vector<std::int64_t> slab_rows(const Program& program, const std::vector<Extent3>& extents,
                                    std::int64_t slab_bytes, std::int64_t element_bytes) {
  const std::vector<Stage>& stages = program.stages();
  std::vector<std::int64_t> rows(stages.size(), 0);
  for (std::size_t first = 0; first < stages.size(); ++first) {
    if (rows[first] != 0) continue;
    std::vector<std::size_t> group;
    std::int64_t step = 1;
    for (std::size_t other = first; other < stages.size(); ++other) {
      if (extents[at(stages[other].output)] != extents[at(stages[first].output)]) continue;
      group.push_back(other);
      step = std::lcm(step, stages[other].up[0]);
    }
    const std::int64_t total = Program::raw_rows(stages[first], extents);
    std::int64_t fitting = total - total % step > 0 ? total - total % step : step;
    for (const std::size_t stage : group) {
      const std::int64_t fixed = call_bytes(program, extents, stages[stage], 0, element_bytes);
      const std::int64_t each = call_bytes(program, extents, stages[stage], step, element_bytes) - fixed;
      const std::int64_t room = std::max<std::int64_t>(slab_bytes - fixed, 0);
      fitting = std::min(fitting, std::max<std::int64_t>(room / std::max<std::int64_t>(each, 1), 1) * step);
    }
    const std::int64_t chosen = even_part(total, fitting, step);
    for (const std::size_t stage : group) rows[stage] = chosen;
  }
  return rows;
}

std::int64_t workspace_bytes(const Program& program, const std::vector<Extent3>& extents, const Pass& pass,
                             const std::vector<std::int64_t>& rows, std::int64_t element_bytes) {
  std::int64_t total = 0;
  for (const int stage : pass.stages) {
    total += stage_workspace(program, extents, program.stages()[at(stage)], rows[at(stage)], element_bytes);
  }
  return total;
}

std::int64_t peak_bytes(const Program& program, const std::vector<Extent3>& extents, const Schedule& schedule,
                        const std::vector<std::int64_t>& rows, std::int64_t element_bytes) {
  std::int64_t peak = 0;
  for (std::size_t number = 0; number < schedule.passes.size(); ++number) {
    const Pass& pass = schedule.passes[number];
    const int index = static_cast<int>(number);
    std::int64_t bytes = window_bytes(program, extents, schedule, pass, rows, element_bytes);
    for (const Slot& slot : schedule.slots) {
      if (slot.first_pass <= index && index <= slot.last_pass) bytes += slot.bytes();
    }
    for (const int stage : pass.sinks) {
      const int tensor = program.stages()[at(stage)].output;
      if (!schedule.places[at(tensor)].direct)
        bytes += rows[at(stage)] * row_bytes(program, extents, tensor, element_bytes);
    }
    bytes += workspace_bytes(program, extents, pass, rows, element_bytes);
    peak = std::max(peak, bytes);
  }
  return peak;
}

}  // namespace ctfast
