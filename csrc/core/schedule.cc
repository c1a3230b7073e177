#include "schedule.h"

#include <algorithm>

namespace ctfast {

namespace {

class Scheduler {
 public:
  Scheduler(const Program& program, const std::vector<Extent3>& extents, const std::vector<Keep>& keep,
            std::int64_t element_bytes)
      : program_(program), extents_(extents), keep_(keep), element_bytes_(element_bytes) {}

  Schedule run() {
    list_passes();
    find_last_uses();
    for (int pass = 0; pass < static_cast<int>(schedule_.passes.size()); ++pass) place_sinks(pass);
    add_up();
    return std::move(schedule_);
  }

 private:
  bool kept(int tensor) const {
    return tensor == Program::kInput || (tensor != program_.output() && keep_[at(tensor)] != Keep::stream);
  }

  // Whether a tensor must be computed from end to end before others can go on.
  bool is_goal(int tensor) const {
    return kept(tensor) || program_.tensors()[at(tensor)].normed || tensor == program_.output();
  }

  // Marks the stages that a stage needs, down to what is kept.
  void close(int stage, std::vector<bool>& needed) const {
    if (needed[at(stage)]) return;
    needed[at(stage)] = true;
    const Stage& it = program_.stages()[at(stage)];
    for (const int tensor : {it.input, it.residual}) {
      if (tensor >= 0 && !kept(tensor)) close(program_.tensors()[at(tensor)].producer, needed);
    }
  }

  void list_passes() {
    const std::vector<Stage>& stages = program_.stages();
    std::vector<bool> done(stages.size(), false);
    for (std::size_t first = 0; first < stages.size(); ++first) {
      if (done[first] || !is_goal(stages[first].output)) continue;
      Pass pass;
      std::vector<bool> needed(stages.size(), false);
      // Goals that read the same tensor are computed together: that tensor is read once, and may be written over.
      for (std::size_t other = first; other < stages.size(); ++other) {
        const bool joins = !done[other] && is_goal(stages[other].output) &&
                           stages[other].input == stages[first].input &&
                           extents_[at(stages[other].output)] == extents_[at(stages[first].output)] &&
                           (other == first || stages[other].residual < 0);
        if (!joins) continue;
        done[other] = true;
        pass.sinks.push_back(static_cast<int>(other));
        close(static_cast<int>(other), needed);
      }
      for (std::size_t stage = 0; stage < stages.size(); ++stage) {
        if (needed[stage]) pass.stages.push_back(static_cast<int>(stage));
      }
      schedule_.passes.push_back(std::move(pass));
    }
  }

  void find_last_uses() {
    schedule_.last_use.assign(program_.tensors().size(), -1);
    for (std::size_t pass = 0; pass < schedule_.passes.size(); ++pass) {
      for (const int stage : schedule_.passes[pass].stages) {
        const Stage& it = program_.stages()[at(stage)];
        for (const int tensor : {it.input, it.residual}) {
          if (tensor >= 0 && kept(tensor)) schedule_.last_use[at(tensor)] = static_cast<int>(pass);
        }
      }
    }
  }

  // First offset in a row of the slot where `width` bytes are free once this pass has read what it reads; -1: none.
  std::int64_t gap(std::size_t slot, std::int64_t width, int pass) const {
    std::vector<std::pair<std::int64_t, std::int64_t>> taken;
    for (const int tensor : residents_[slot]) {
      if (schedule_.last_use[at(tensor)] <= pass && !is_sink(tensor, pass)) continue;
      const std::int64_t offset = schedule_.places[at(tensor)].offset;
      taken.emplace_back(offset, offset + bytes_of_row(tensor));
    }
    std::ranges::sort(taken);
    std::int64_t free_from = 0;
    for (const auto& [first, last] : taken) {
      if (first - free_from >= width) return free_from;
      free_from = last;
    }
    return schedule_.slots[slot].row_bytes - free_from >= width ? free_from : -1;
  }

  // Whether a tensor is enlarged next. It then lives on beside larger ones and must not hold a slot wider than itself.
  bool feeds_larger(int tensor) const {
    return std::ranges::any_of(program_.tensors()[at(tensor)].readers, [&](int reader) {
      const Extent3& extent = extents_[at(program_.stages()[at(reader)].output)];
      const Extent3& own = extents_[at(tensor)];
      return extent[0] * extent[1] * extent[2] > own[0] * own[1] * own[2];
    });
  }

  bool is_sink(int tensor, int pass) const {
    const std::vector<int>& sinks = schedule_.passes[at(pass)].sinks;
    return std::ranges::find(sinks, program_.tensors()[at(tensor)].producer) != sinks.end();
  }

  std::int64_t bytes_of_row(int tensor) const { return row_bytes(program_, extents_, tensor, element_bytes_); }

  void place_sinks(int pass) {
    schedule_.places.resize(program_.tensors().size());
    for (const int sink : schedule_.passes[at(pass)].sinks) {
      const int tensor = program_.stages()[at(sink)].output;
      if (tensor == program_.output() || keep_[at(tensor)] != Keep::memory) continue;
      const std::int64_t rows = extents_[at(tensor)][0];
      const std::int64_t width = bytes_of_row(tensor);
      Place place;
      for (std::size_t slot = 0; slot < schedule_.slots.size() && place.slot < 0; ++slot) {
        if (schedule_.slots[slot].last_pass < pass || schedule_.slots[slot].rows != rows) continue;
        if (schedule_.slots[slot].row_bytes > width && feeds_larger(tensor)) continue;
        const std::int64_t offset = gap(slot, width, pass);
        if (offset >= 0) place = {static_cast<int>(slot), offset, false};
      }
      if (place.slot < 0) {
        place = {static_cast<int>(schedule_.slots.size()), 0, program_.stages()[at(sink)].skip == 0};
        schedule_.slots.push_back({rows, width, pass, pass});
        residents_.emplace_back();
      }
      schedule_.places[at(tensor)] = place;
      residents_[at(place.slot)].push_back(tensor);
      int& last = schedule_.slots[at(place.slot)].last_pass;
      last = std::max({last, pass, schedule_.last_use[at(tensor)]});
    }
  }

  void add_up() {
    std::vector<int> on_disk;  // tensors, while a pass runs
    for (int number = 0; number < static_cast<int>(schedule_.passes.size()); ++number) {
      const Pass& pass = schedule_.passes[at(number)];
      for (const int stage : pass.stages) {
        const Stage& it = program_.stages()[at(stage)];
        const Extent3& extent = extents_[at(it.output)];
        schedule_.multiply_adds +=
            static_cast<double>(it.multiply_adds) * static_cast<double>(extent[0] * extent[1] * extent[2]);
        for (const int tensor : {it.input, it.residual}) {
          if (tensor > 0 && keep_[at(tensor)] == Keep::spill) schedule_.spilled_bytes += bytes(tensor);
        }
      }
      for (const int sink : pass.sinks) {
        const int tensor = program_.stages()[at(sink)].output;
        if (tensor == program_.output() || keep_[at(tensor)] != Keep::spill) continue;
        schedule_.spilled_bytes += bytes(tensor);
        on_disk.push_back(tensor);
      }
      std::int64_t live = 0;
      for (const int tensor : on_disk) live += bytes(tensor);
      schedule_.scratch_bytes = std::max(schedule_.scratch_bytes, live);
      std::erase_if(on_disk, [&](int tensor) { return schedule_.last_use[at(tensor)] <= number; });
    }
  }

  std::int64_t bytes(int tensor) const { return extents_[at(tensor)][0] * bytes_of_row(tensor); }

  const Program& program_;
  const std::vector<Extent3>& extents_;
  const std::vector<Keep>& keep_;
  std::int64_t element_bytes_;
  std::vector<std::vector<int>> residents_;  // tensors ever placed in each slot
  Schedule schedule_;
};

}  // namespace

std::int64_t row_bytes(const Program& program, const std::vector<Extent3>& extents, int tensor,
                       std::int64_t element_bytes) {
  const Extent3& extent = extents[at(tensor)];
  const bool outer = tensor == Program::kInput || tensor == program.output();
  return extent[1] * extent[2] * program.tensors()[at(tensor)].channels * (outer ? 4 : element_bytes);
}

Schedule make_schedule(const Program& program, const std::vector<Extent3>& extents, const std::vector<Keep>& keep,
                       std::int64_t element_bytes) {
  return Scheduler(program, extents, keep, element_bytes).run();
}

}  // namespace ctfast
