#include "planner.h"

#include <algorithm>
#include <array>
#include <limits>
#include <map>
#include <utility>

namespace ctfast {

namespace {

constexpr std::array<std::int64_t, 6> kSlabBytes = {256 << 20, 128 << 20, 64 << 20, 32 << 20, 16 << 20, 4 << 20};

// What else takes time, in the multiply-adds that could be done meanwhile. Large slabs read their halos less often, but
// each session's memory is new to the process in every pass; a processor spends several times longer on a page's first
// use than on later ones.
constexpr double kPerByte = 100.0;
constexpr double kPerNewByte = 400.0;
constexpr double kPerCall = 1e9;
constexpr double kPerSession = 5e10;  // compiling a stage

constexpr std::size_t kEnumerated = 10;            // tensors of one size whose every subset is tried
constexpr std::int64_t kMostElements = INT32_MAX;  // what a backend can address in one tensor

class Planner {
 public:
  Planner(const Program& program, const Extent3& size, const PlannerOptions& options)
      : program_(program), options_(options), extents_(program.extents(size)) {
    for (const std::int64_t bytes : kSlabBytes) {
      std::vector<std::int64_t> rows = slab_rows(program, extents_, bytes, options.element_bytes);
      if (addressable(rows) && (slabs_.empty() || slabs_.back() != rows)) slabs_.push_back(std::move(rows));
    }
    if (slabs_.empty()) slabs_.push_back(slab_rows(program, extents_, 0, options.element_bytes));
    for (const Stage& stage : program.stages()) plain_ += multiply_adds(stage);
    for (int tensor = 1; tensor < program.output(); ++tensor) grids_[voxels(tensor)].push_back(tensor);
  }

  std::vector<Strategy> run() {
    std::vector<Strategy> strategies;
    if (options_.whole_bytes) strategies.push_back(whole());
    const std::vector<Keep> all(program_.tensors().size(), Keep::memory);
    const Strategy plain = evaluate(all);
    const Strategy recompute = search(all, Keep::stream);
    // What is read once, and not for its statistics, is streamed at no cost: that computes nothing again.
    const bool nothing_again = recompute.work <= plain.work * (1.0 + 1e-9);
    strategies.push_back(named("in_place", nothing_again ? recompute : plain));
    strategies.push_back(named("spill", search(all, Keep::spill)));
    strategies.push_back(named("recompute", recompute));
    return strategies;
  }

 private:
  std::int64_t voxels(int tensor) const {
    const Extent3& extent = extents_[at(tensor)];
    return extent[0] * extent[1] * extent[2];
  }

  double multiply_adds(const Stage& stage) const {
    return static_cast<double>(stage.multiply_adds) * static_cast<double>(voxels(stage.output));
  }

  bool addressable(const std::vector<std::int64_t>& rows) const {
    return std::ranges::all_of(program_.stages(), [&](const Stage& stage) {
      const Extent3& in = extents_[at(stage.input)];
      const Extent3& out = extents_[at(stage.output)];
      const std::int64_t count = rows[at(program_.tensors()[at(stage.output)].producer)];
      const std::int64_t channels = program_.tensors()[at(stage.input)].channels;
      const std::int64_t read = stage.input_rows(count) * in[1] * in[2] * channels;
      const std::int64_t enlarged = (count + 4) * out[1] * out[2] * channels;
      return std::max({read, enlarged, count * out[1] * out[2] * stage.channels}) < kMostElements;
    });
  }

  Strategy whole() const {
    Strategy strategy;
    strategy.name = "whole";
    strategy.peak_bytes = *options_.whole_bytes;
    double cost = plain_ + kPerNewByte * static_cast<double>(strategy.peak_bytes);
    for (const Stage& stage : program_.stages()) {
      const std::int64_t rows = extents_[at(stage.output)][0];
      cost += kPerByte * static_cast<double>(call_bytes(program_, extents_, stage, rows, options_.element_bytes));
    }
    strategy.seconds = cost / options_.rate;
    strategy.fits = strategy.peak_bytes <= options_.budget;
    return strategy;
  }

  // With the slabs that are quickest among those that fit, or else the smallest.
  Strategy evaluate(const std::vector<Keep>& keep) const {
    const Schedule schedule = make_schedule(program_, extents_, keep, options_.element_bytes);
    Strategy best;
    for (const std::vector<std::int64_t>& rows : slabs_) {
      Strategy strategy;
      strategy.keep = keep;
      strategy.rows = rows;
      strategy.work = plain_ > 0.0 ? schedule.multiply_adds / plain_ : 1.0;
      strategy.spilled_bytes = schedule.spilled_bytes;
      strategy.scratch_bytes = schedule.scratch_bytes;
      strategy.peak_bytes = peak_bytes(program_, extents_, schedule, rows, options_.element_bytes);
      strategy.fits = strategy.peak_bytes <= options_.budget;
      strategy.seconds =
          cost(schedule, rows) / options_.rate + static_cast<double>(schedule.spilled_bytes) / options_.spill_rate;
      if (best.rows.empty() || better(strategy, best)) best = std::move(strategy);
    }
    return best;
  }

  double cost(const Schedule& schedule, const std::vector<std::int64_t>& rows) const {
    double total = schedule.multiply_adds;
    for (const Slot& slot : schedule.slots) total += kPerNewByte * static_cast<double>(slot.bytes());
    for (const Pass& pass : schedule.passes) {
      for (const int number : pass.stages) {
        const Stage& stage = program_.stages()[at(number)];
        const std::int64_t each = call_bytes(program_, extents_, stage, rows[at(number)], options_.element_bytes);
        const std::int64_t calls = (extents_[at(stage.output)][0] + rows[at(number)] - 1) / rows[at(number)];
        total += kPerSession + kPerNewByte * static_cast<double>(each) +
                 static_cast<double>(calls) * (kPerCall + kPerByte * static_cast<double>(each));
      }
    }
    return total;
  }

  static bool better(const Strategy& left, const Strategy& right) {
    if (left.fits != right.fits) return left.fits;
    if (!left.fits) return left.peak_bytes < right.peak_bytes;
    return std::pair(left.seconds, left.peak_bytes) < std::pair(right.seconds, right.peak_bytes);
  }

  // Lets tensors out of memory, from those of the largest size on until it fits: for each size every subset is tried
  // with the other sizes as they are. A second round sees what the first one made possible for the larger sizes.
  Strategy search(const std::vector<Keep>& all, Keep otherwise) const {
    Strategy best = evaluate(all);
    for (int round = 0; round < 2; ++round) {
      for (auto grid = grids_.rbegin(); grid != grids_.rend(); ++grid) {
        for (const std::vector<bool>& out : subsets(grid->second.size())) {
          std::vector<Keep> keep = best.keep;
          for (std::size_t i = 0; i < out.size(); ++i) keep[at(grid->second[i])] = out[i] ? otherwise : Keep::memory;
          Strategy candidate = evaluate(keep);
          if (better(candidate, best)) best = std::move(candidate);
        }
      }
    }
    return best;
  }

  // Of many tensors only none, each one alone, all but one and all.
  static std::vector<std::vector<bool>> subsets(std::size_t count) {
    std::vector<std::vector<bool>> all;
    if (count <= kEnumerated) {
      for (std::size_t bits = 0; bits < (std::size_t{1} << count); ++bits) {
        std::vector<bool> subset(count);
        for (std::size_t i = 0; i < count; ++i) subset[i] = ((bits >> i) & 1U) != 0;
        all.push_back(std::move(subset));
      }
      return all;
    }
    for (const bool rest : {false, true}) {
      all.emplace_back(count, rest);
      for (std::size_t i = 0; i < count; ++i) {
        all.emplace_back(count, rest);
        all.back()[i] = !rest;
      }
    }
    return all;
  }

  static Strategy named(std::string name, Strategy strategy) {
    strategy.name = std::move(name);
    return strategy;
  }

  const Program& program_;
  const PlannerOptions& options_;
  std::vector<Extent3> extents_;
  std::vector<std::vector<std::int64_t>> slabs_;    // rows of each stage, from large slabs to small ones
  std::map<std::int64_t, std::vector<int>> grids_;  // tensors between input and output by their number of voxels
  double plain_ = 0.0;
};

}  // namespace

std::vector<Strategy> plan_strategies(const Program& program, const Extent3& size, const PlannerOptions& options) {
  return Planner(program, size, options).run();
}

}  // namespace ctfast
