#include "walker.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "arena.h"
#include "error.h"
#include "row_window.h"
#include "statistics.h"

namespace ctfast {

namespace {

// How a stage reads one of its tensors: through a window, or where the rows lie.
struct Reader {
  RowWindow* window = nullptr;
  const RowStore* store = nullptr;
  std::int64_t needs = 0;  // first row that it will still read
};

// A stage within a pass.
struct Running {
  const Stage* stage = nullptr;
  std::shared_ptr<Session> session;
  std::unique_lock<std::recursive_mutex> held;
  std::int64_t rows = 0;      // of raw output per call
  std::int64_t raw_rows = 0;  // in all
  std::int64_t next = 0;      // first one not computed yet
  Reader input;
  Reader residual;
  ScaleShift norm;
};

class Walker {
 public:
  Walker(const Program& program, const OpenStage& open_stage, const TensorView& input, const Strategy& strategy,
         const WalkOptions& options, Arena& arena, const RowSink& sink, const Observer& observer)
      : program_(program),
        open_stage_(open_stage),
        strategy_(strategy),
        options_(options),
        arena_(arena),
        sink_(sink),
        observer_(observer),
        extents_(program.extents(checked(program, input))),
        schedule_(make_schedule(program, extents_, checked(program, strategy),
                                static_cast<std::int64_t>(size_of(options.element)))),
        stores_(program.tensors().size()),
        sums_(program.tensors().size()) {
    stores_[Program::kInput] =
        memory_rows(arena.memory(), static_cast<std::byte*>(input.data), bytes_of_row(0), bytes_of_row(0));
    for (const Pass& pass : schedule_.passes) {
      for (const int stage : pass.stages) {
        total_calls_ += (raw_rows(stage) + strategy.rows[at(stage)] - 1) / strategy.rows[at(stage)];
      }
    }
  }

  WalkResult run() {
    report(observer_, {options_.stage, 0, total_calls_});
    arena_.forget_peak();
    for (int pass = 0; pass < static_cast<int>(schedule_.passes.size()); ++pass) {
      run_pass(pass);
      end_pass(pass);
    }
    return {arena_.peak_bytes()};
  }

 private:
  static Extent3 checked(const Program& program, const TensorView& input) {
    if (input.dtype != DType::f32 || input.shape.size() != 4 || count(input.shape) == 0 ||
        input.shape[3] != program.tensors().front().channels) {
      throw Error(ErrorKind::request, "expected float32 of shape (z, y, x, " +
                                          std::to_string(program.tensors().front().channels) + ") for '" +
                                          program.tensors().front().name + "'");
    }
    return {input.shape[0], input.shape[1], input.shape[2]};
  }

  static const std::vector<Keep>& checked(const Program& program, const Strategy& strategy) {
    if (strategy.keep.size() != program.tensors().size() || strategy.rows.size() != program.stages().size()) {
      throw Error(ErrorKind::request, "strategy '" + strategy.name + "' is not one for running this program in slabs");
    }
    return strategy.keep;
  }

  std::int64_t bytes_of_row(int tensor) const {
    return row_bytes(program_, extents_, tensor, static_cast<std::int64_t>(size_of(options_.element)));
  }

  DType element_of(int tensor) const {
    return tensor == Program::kInput || tensor == program_.output() ? DType::f32 : options_.element;
  }

  std::int64_t rows_of(int tensor) const { return extents_[at(tensor)][0]; }

  std::int64_t voxels_of(int tensor) const {
    const Extent3& extent = extents_[at(tensor)];
    return extent[0] * extent[1] * extent[2];
  }

  std::int64_t raw_rows(int stage) const { return Program::raw_rows(program_.stages()[at(stage)], extents_); }

  Shape shape_of(int tensor, std::int64_t rows) const {
    const Extent3& extent = extents_[at(tensor)];
    return {1, rows, extent[1], extent[2], program_.tensors()[at(tensor)].channels};
  }

  bool is_sink(int stage) const { return std::ranges::find(pass_->sinks, stage) != pass_->sinks.end(); }

  bool runs(int stage) const { return std::ranges::find(pass_->stages, stage) != pass_->stages.end(); }

  // Whether a tensor is computed in this pass for others to read.
  bool streamed(int tensor) const {
    const int producer = program_.tensors()[at(tensor)].producer;
    return producer >= 0 && !stores_[at(tensor)] && runs(producer) && !is_sink(producer);
  }

  // ---- a pass ----

  void run_pass(int number) {
    pass_ = &schedule_.passes[at(number)];
    const auto element_bytes = static_cast<std::int64_t>(size_of(options_.element));
    arena_.keep_within(strategy_.peak_bytes -
                       workspace_bytes(program_, extents_, *pass_, strategy_.rows, element_bytes));
    open_slots(number);
    for (const int stage : pass_->stages) open_stage(stage);
    for (const int stage : pass_->stages) connect(stage);
    for (const int stage : pass_->sinks) {
      const int tensor = program_.stages()[at(stage)].output;
      const bool direct = schedule_.places[at(tensor)].direct;
      results_.push_back(direct ? Arena::Block() : arena_.allocate(running_.at(stage).rows * bytes_of_row(tensor)));
      if (program_.tensors()[at(tensor)].normed) {
        sums_[at(tensor)] = arena_.memory().row_sums(program_.tensors()[at(tensor)].channels);
      }
    }
    // All sinks of a pass have the same extents and rows per call, so they go in step. What they computed is put away
    // when all are done: it may lie where one of them has read.
    const std::int64_t rows = raw_rows(pass_->sinks.front());
    while (running_.at(pass_->sinks.front()).next < rows) {
      const std::int64_t first = running_.at(pass_->sinks.front()).next;
      std::vector<std::byte*> results;
      for (std::size_t i = 0; i < pass_->sinks.size(); ++i) {
        const int tensor = program_.stages()[at(pass_->sinks[i])].output;
        const bool direct = schedule_.places[at(tensor)].direct;
        results.push_back(direct ? new_stores_.at(tensor)->in_place(first) : results_[i].data());
        compute(pass_->sinks[i], results.back());
      }
      for (std::size_t i = 0; i < pass_->sinks.size(); ++i) put_away(pass_->sinks[i], first, results[i]);
    }
  }

  void open_slots(int number) {
    slots_.resize(schedule_.slots.size());
    for (std::size_t slot = 0; slot < slots_.size(); ++slot) {
      if (schedule_.slots[slot].first_pass == number) slots_[slot] = arena_.allocate(schedule_.slots[slot].bytes());
    }
    for (const int sink : pass_->sinks) {
      const int tensor = program_.stages()[at(sink)].output;
      const Place& place = schedule_.places[at(tensor)];
      if (place.slot >= 0) {
        new_stores_[tensor] = memory_rows(arena_.memory(), slots_[at(place.slot)].data() + place.offset,
                                          bytes_of_row(tensor), schedule_.slots[at(place.slot)].row_bytes);
      } else if (tensor != program_.output() && strategy_.keep[at(tensor)] == Keep::spill) {
        new_stores_[tensor] = arena_.memory().spilled_rows(options_.scratch, rows_of(tensor), bytes_of_row(tensor));
      }
    }
  }

  void open_stage(int number) {
    const Stage& stage = program_.stages()[at(number)];
    Running running;
    running.stage = &stage;
    running.rows = strategy_.rows[at(number)];
    running.raw_rows = raw_rows(number);
    running.session = open_stage_(stage);
    running.held = std::unique_lock(running.session->in_use());
    if (stage.norm) running.norm = normalisation(sums_[at(stage.input)]->totals(), voxels_of(stage.input), *stage.norm);
    running_.emplace(number, std::move(running));
  }

  void connect(int number) {
    Running& running = running_.at(number);
    const Stage& stage = *running.stage;
    running.input.needs = stage.needs_from(0);
    running.input.window = shared_window(stage.input);
    if (!streamed(stage.input)) running.input.store = stores_[at(stage.input)].get();
    if (stage.residual < 0) return;
    if (streamed(stage.residual)) {
      running.residual.window = shared_window(stage.residual);
      return;
    }
    running.residual.store = stores_[at(stage.residual)].get();
    if (running.residual.store->in_place(0) == nullptr) {
      running.residual.window = own_window(stage.residual, 0, 0, running.rows);
    }
  }

  RowWindow* own_window(int tensor, std::int64_t before, std::int64_t after, std::int64_t capacity) {
    windows_.push_back(std::make_unique<RowWindow>(arena_, rows_of(tensor), bytes_of_row(tensor), before, after,
                                                   capacity, options_.threads));
    return windows_.back().get();
  }

  // The window of a tensor for all stages of the pass that read it with a halo or, where it is streamed, add it.
  RowWindow* shared_window(int tensor) {
    RowWindow*& window = shared_[tensor];
    if (window != nullptr) return window;
    std::int64_t before = 0;
    std::int64_t after = 0;
    std::int64_t needed = 0;
    for (const int reader : program_.tensors()[at(tensor)].readers) {
      if (!runs(reader)) continue;
      const Running& other = running_.at(reader);
      const Stage& stage = *other.stage;
      if (stage.input != tensor) {
        if (streamed(tensor)) needed = std::max(needed, other.rows);
        continue;
      }
      before = std::max(before, stage.before);
      after = std::max(after, stage.after);
      needed = std::max(needed, stage.input_rows(other.rows));
    }
    if (streamed(tensor)) needed += running_.at(program_.tensors()[at(tensor)].producer).rows;
    window = own_window(tensor, before, after, needed);
    return window;
  }

  void end_pass(int number) {
    for (const auto& [stage, running] : running_) running.session->release_memory();
    running_.clear();
    shared_.clear();
    windows_.clear();
    results_.clear();
    for (auto& [tensor, store] : new_stores_) stores_[at(tensor)] = std::move(store);
    new_stores_.clear();
    for (std::size_t tensor = 1; tensor < stores_.size(); ++tensor) {
      if (schedule_.last_use[tensor] <= number) stores_[tensor].reset();
    }
    for (std::size_t slot = 0; slot < slots_.size(); ++slot) {
      if (schedule_.slots[slot].last_pass == number) slots_[slot] = Arena::Block();
    }
  }

  // ---- rows ----

  // Brings rows of a tensor into the window that a stage reads it through, up to (not including) `last`.
  void bring(const Reader& reader, int tensor, std::int64_t last) {
    last = std::min(last, rows_of(tensor));
    if (reader.store != nullptr) {
      const std::int64_t first = reader.window->produced();
      if (first >= last) return;
      std::byte* rows = reader.window->reserve(last - first);
      reader.store->read(first, last - first, rows, options_.threads);
      reader.window->commit(last - first);
      return;
    }
    const int producer = program_.tensors()[at(tensor)].producer;
    Running& source = running_.at(producer);
    while (reader.window->produced() < last) {
      const std::int64_t first = source.next;
      const std::int64_t now = std::min(source.rows, source.raw_rows - first);
      // What the producer itself reads has to be there before room is made: that may call for this window's rows.
      bring_inputs(source, now);
      std::byte* rows = reader.window->reserve(now);
      run_stage(source, now, rows);
      const std::int64_t skipped = std::clamp<std::int64_t>(source.stage->skip - first, 0, now);
      reader.window->commit(now - skipped, skipped);
    }
  }

  void bring_inputs(Running& running, std::int64_t now) {
    const Stage& stage = *running.stage;
    const std::int64_t last = running.next + now;
    bring(running.input, stage.input, stage.needs_to(last));
    if (stage.residual >= 0 && running.residual.window != nullptr) {
      bring(running.residual, stage.residual, last);
    }
  }

  void compute(int sink, std::byte* result) {
    Running& running = running_.at(sink);
    const std::int64_t now = std::min(running.rows, running.raw_rows - running.next);
    bring_inputs(running, now);
    run_stage(running, now, result);
  }

  void run_stage(Running& running, std::int64_t now, std::byte* result) {
    const Stage& stage = *running.stage;
    const std::int64_t first = running.next;
    const std::int64_t from = stage.needs_from(first);
    const std::int64_t to = stage.needs_to(first + now);
    std::vector<NamedTensor> inputs;
    const auto add = [&](const char* name, DType type, Shape shape, const void* data) {
      inputs.emplace_back(name, TensorView{type, std::move(shape), const_cast<void*>(data)});
    };
    add("x", element_of(stage.input), shape_of(stage.input, to - from), running.input.window->row(from));
    if (stage.norm) {
      const auto channels = static_cast<std::int64_t>(running.norm.scale.size());
      add("scale", DType::f32, {1, 1, 1, 1, channels}, running.norm.scale.data());
      add("shift", DType::f32, {1, 1, 1, 1, channels}, running.norm.shift.data());
    }
    std::vector<float> mask;
    if (stage.mask) {
      const bool on_input = stage.mask->grid == SlabGrid::input;
      const std::int64_t begin = (on_input ? from + stage.before : first) - stage.mask->before;
      const std::int64_t end = (on_input ? to - stage.after : first + now) + stage.mask->after;
      const std::int64_t extent = on_input ? rows_of(stage.input) : running.raw_rows;
      for (std::int64_t row = begin; row < end; ++row) mask.push_back(row >= 0 && row < extent ? 1.0F : 0.0F);
      add("mask", DType::f32, {1, end - begin, 1, 1, 1}, mask.data());
    }
    if (stage.residual >= 0) {
      const std::byte* rows = running.residual.window != nullptr ? running.residual.window->row(first)
                                                                 : running.residual.store->in_place(first);
      add("residual", element_of(stage.residual), shape_of(stage.residual, now), rows);
    }
    running.session->run_into(inputs, {element_of(stage.output), shape_of(stage.output, now), result});
    running.next += now;
    running.input.needs = stage.needs_from(first + now);
    running.residual.needs = first + now;
    drop(stage.input, running.input);
    if (stage.residual >= 0 && running.residual.window != nullptr) drop(stage.residual, running.residual);
    report(observer_, {options_.stage, ++calls_, total_calls_});
  }

  // Lets go of rows that no reader of the window needs any more.
  void drop(int tensor, const Reader& reader) {
    std::int64_t needed = rows_of(tensor);
    for (const int stage : program_.tensors()[at(tensor)].readers) {
      const auto found = running_.find(stage);
      if (found == running_.end()) continue;
      for (const Reader* other : {&found->second.input, &found->second.residual}) {
        if (other->window == reader.window) needed = std::min(needed, other->needs);
      }
    }
    reader.window->drop_before(needed);
  }

  // A sink's rows: their statistics, and where they are kept or who takes them.
  void put_away(int sink, std::int64_t raw_first, std::byte* result) {
    const Stage& stage = program_.stages()[at(sink)];
    const std::int64_t skipped =
        std::clamp<std::int64_t>(stage.skip - raw_first, 0, running_.at(sink).next - raw_first);
    const std::int64_t first = raw_first + skipped - stage.skip;
    const std::int64_t rows = running_.at(sink).next - raw_first - skipped;
    if (rows == 0) return;
    std::byte* values = result + skipped * bytes_of_row(stage.output);
    if (sums_[at(stage.output)]) {
      const Extent3& extent = extents_[at(stage.output)];
      sums_[at(stage.output)]->add(values, element_of(stage.output), rows * extent[1] * extent[2], options_.threads);
    }
    const auto kept = new_stores_.find(stage.output);
    if (kept != new_stores_.end() && !schedule_.places[at(stage.output)].direct)
      kept->second->write(first, rows, values, options_.threads);
    if (stage.output != program_.output()) return;
    Shape shape = shape_of(stage.output, rows);
    shape.erase(shape.begin());
    sink_(first, {DType::f32, std::move(shape), values});
  }

  const Program& program_;
  const OpenStage& open_stage_;
  const Strategy& strategy_;
  const WalkOptions& options_;
  Arena& arena_;
  const RowSink& sink_;
  const Observer& observer_;
  std::vector<Extent3> extents_;
  Schedule schedule_;
  std::int64_t total_calls_ = 0;
  std::int64_t calls_ = 0;

  std::vector<Arena::Block> slots_;
  std::vector<std::unique_ptr<RowStore>> stores_;  // of each tensor that is kept now
  std::vector<std::unique_ptr<RowSums>> sums_;

  // Of the pass that runs.
  const Pass* pass_ = nullptr;
  std::map<int, std::unique_ptr<RowStore>> new_stores_;  // of its sinks, which others may read when it is over
  std::map<int, Running> running_;
  std::vector<std::unique_ptr<RowWindow>> windows_;
  std::map<int, RowWindow*> shared_;
  std::vector<Arena::Block> results_;
};

}  // namespace

WalkResult run_program(const Program& program, const OpenStage& open_stage, const TensorView& input,
                       const Strategy& strategy, const WalkOptions& options, Arena& arena, const RowSink& sink,
                       const Observer& observer) {
  return Walker(program, open_stage, input, strategy, options, arena, sink, observer).run();
}

}  // namespace ctfast
