// Programs: networks that run in slabs under a budget of memory.
#include "core/program.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bindings/array.h"
#include "bindings/module.h"
#include "bindings/observer.h"
#include "core/cpu.h"
#include "core/error.h"
#include "core/planner.h"
#include "core/walker.h"
#include "sessions/addressed.h"

namespace ctfast::bindings {

namespace {

// Python counts axes x, y, z; programs z, y, x.
Extent3 reversed(const Extent3& extent) { return {extent[2], extent[1], extent[0]}; }

template <typename Value>
Value field(const py::dict& stage, const char* name) {
  if (!stage.contains(name)) throw Error(ErrorKind::request, std::string("a stage needs '") + name + "'");
  return stage[name].cast<Value>();
}

std::vector<float> weights(const py::dict& stage, const char* name) {
  const FloatArray array = FloatArray::ensure(stage[name]);
  if (!array) throw Error(ErrorKind::request, std::string("a stage's '") + name + "' should be an array of floats");
  return {array.data(), array.data() + array.size()};
}

StageSpec stage_of(const py::dict& stage) {
  StageSpec spec;
  spec.name = field<std::string>(stage, "name");
  spec.reads = field<std::string>(stage, "reads");
  spec.writes = field<std::string>(stage, "writes");
  spec.adds = field<std::optional<std::string>>(stage, "adds").value_or("");
  spec.channels = field<std::int64_t>(stage, "channels");
  spec.up = reversed(field<Extent3>(stage, "up"));
  spec.down = reversed(field<Extent3>(stage, "down"));
  std::tie(spec.before, spec.after) = field<std::pair<std::int64_t, std::int64_t>>(stage, "halo");
  spec.skip = field<std::int64_t>(stage, "skip");
  spec.multiply_adds = field<std::int64_t>(stage, "multiply_adds");
  if (const auto groups = field<std::int64_t>(stage, "groups"); groups != 0) {
    spec.norm = GroupNorm{groups, field<double>(stage, "eps"), weights(stage, "gamma"), weights(stage, "beta")};
  }
  using Mask = std::tuple<std::string, std::int64_t, std::int64_t>;
  if (const auto mask = field<std::optional<Mask>>(stage, "mask")) {
    const auto& [grid, before, after] = *mask;
    if (grid != "input" && grid != "output") throw Error(ErrorKind::request, "a mask's grid is 'input' or 'output'");
    spec.mask = SlabMask{grid == "input" ? SlabGrid::input : SlabGrid::output, before, after};
  }
  return spec;
}

std::shared_ptr<Program> make_program(std::string input, std::int64_t channels, const std::string& output,
                                      const std::vector<py::dict>& stages) {
  std::vector<StageSpec> specs;
  std::ranges::transform(stages, std::back_inserter(specs), stage_of);
  return std::make_shared<Program>(std::move(input), channels, output, std::move(specs));
}

py::tuple output_size(const Program& program, const Extent3& size) {
  const Extent3 extent = program.extents(reversed(size))[static_cast<std::size_t>(program.output())];
  return py::make_tuple(extent[2], extent[1], extent[0]);
}

struct NamedStrategy : Strategy {
  std::vector<std::string> stored;  // tensors kept in memory
  std::vector<std::string> spilled;
};

std::vector<NamedStrategy> strategies(const Program& program, const Extent3& size, std::int64_t element_bytes,
                                      std::int64_t budget, std::optional<std::int64_t> whole_bytes, double rate,
                                      double spill_rate) {
  if (element_bytes != 2 && element_bytes != 4) throw Error(ErrorKind::request, "element_bytes should be 2 or 4");
  std::vector<NamedStrategy> named;
  {
    const py::gil_scoped_release unlocked;
    for (Strategy& strategy :
         plan_strategies(program, reversed(size), {element_bytes, budget, whole_bytes, rate, spill_rate})) {
      named.push_back({std::move(strategy), {}, {}});
    }
  }
  for (NamedStrategy& strategy : named) {
    for (std::size_t i = 1; i + 1 < strategy.keep.size(); ++i) {
      if (strategy.keep[i] == Keep::memory) strategy.stored.push_back(program.tensors()[i].name);
      if (strategy.keep[i] == Keep::spill) strategy.spilled.push_back(program.tensors()[i].name);
    }
  }
  return named;
}

// A session that Python made, kept by its Python object: that must go with the interpreter lock held.
std::shared_ptr<Session> session_of(const py::object& object) {
  auto* session = object.cast<Session*>();
  if (session == nullptr) throw Error(ErrorKind::request, "open_stage should return a session");
  return {session, [keeper = std::make_shared<py::object>(object)](Session*) mutable {
            const py::gil_scoped_acquire lock;
            keeper.reset();
          }};
}

// What is the same wherever the tensors are.
struct Walk {
  const Program& program;
  py::function open_stage;
  const NamedStrategy& strategy;
  WalkOptions options;
  Observer watch;

  std::int64_t run(const TensorView& input, Arena& arena, const RowSink& sink) const {
    const OpenStage open = [this](const Stage& stage) {
      const py::gil_scoped_acquire lock;
      return session_of(open_stage(stage.name));
    };
    const py::gil_scoped_release unlocked;
    return run_program(program, open, input, strategy, options, arena, sink, watch).peak_bytes;
  }
};

Walk walk_of(const Program& program, const py::function& open_stage, const NamedStrategy& strategy,
             std::int64_t element_bytes, int threads, std::string scratch, std::string stage_name,
             const py::object& observer) {
  const DType element = element_bytes == 2 ? DType::bf16 : DType::f32;
  const WalkOptions options{element, threads > 0 ? threads : available_threads(), std::move(scratch),
                            std::move(stage_name)};
  return {program, open_stage, strategy, options, observer_of(observer)};
}

std::int64_t run(const Program& program, const py::function& open_stage, const py::object& input,
                 const NamedStrategy& strategy, const py::function& sink, std::int64_t element_bytes, int threads,
                 std::string scratch, std::string stage_name, Arena* workspace, const py::object& observer) {
  const py::array given = contiguous(input, "input");
  const RowSink take = [&](std::int64_t first, const TensorView& rows) {
    const py::gil_scoped_acquire lock;
    const std::vector<py::ssize_t> shape(rows.shape.begin(), rows.shape.end());
    const py::capsule borrowed(rows.data, [](void*) {});
    sink(first, py::array(py::dtype::of<float>(), shape, {}, rows.data, borrowed));
  };
  const Walk walk = walk_of(program, open_stage, strategy, element_bytes, threads, std::move(scratch),
                            std::move(stage_name), observer);
  Arena own;
  return walk.run(view_of(given, "input"), workspace == nullptr ? own : *workspace, take);
}

std::int64_t run_in(Arena& workspace, const Program& program, const py::function& open_stage, std::uintptr_t address,
                    const std::array<std::int64_t, 4>& shape, const NamedStrategy& strategy, const py::function& sink,
                    std::int64_t element_bytes, std::string stage_name, const py::object& observer) {
  const RowSink take = [&](std::int64_t first, const TensorView& rows) {
    const py::gil_scoped_acquire lock;
    sink(first, addressed(rows));
  };
  const Walk walk = walk_of(program, open_stage, strategy, element_bytes, 1, "", std::move(stage_name), observer);
  const TensorView input{DType::f32, {shape.begin(), shape.end()}, reinterpret_cast<void*>(address)};
  return walk.run(input, workspace, take);
}

std::shared_ptr<Arena> workspace_of(const py::object& memory) {
  return memory.is_none() ? std::make_shared<Arena>() : std::make_shared<Arena>(python_memory(memory));
}

}  // namespace

void bind_program(py::module_& module) {
  py::class_<Program, std::shared_ptr<Program>>(module, "Program")
      .def(py::init(&make_program), py::arg("input"), py::arg("input_channels"), py::arg("output"), py::arg("stages"))
      .def("output_size", &output_size, py::arg("size"));

  py::class_<NamedStrategy>(module, "Strategy")
      .def_readonly("name", &NamedStrategy::name)
      .def_readonly("peak_bytes", &NamedStrategy::peak_bytes)
      .def_readonly("work", &NamedStrategy::work)
      .def_readonly("spilled_bytes", &NamedStrategy::spilled_bytes)
      .def_readonly("scratch_bytes", &NamedStrategy::scratch_bytes)
      .def_readonly("seconds", &NamedStrategy::seconds)
      .def_readonly("fits", &NamedStrategy::fits)
      .def_readonly("stored", &NamedStrategy::stored)
      .def_readonly("spilled", &NamedStrategy::spilled)
      .def_property_readonly("slab_rows", [](const NamedStrategy& strategy) {
        return strategy.rows.empty() ? std::int64_t{0} : strategy.rows.back();
      });

  py::class_<Arena, std::shared_ptr<Arena>>(module, "Workspace")
      .def(py::init(&workspace_of), py::arg("memory") = py::none())
      .def_property_readonly("kept_bytes", &Arena::kept_bytes)
      .def("clear", &Arena::clear);

  module.def("run_program_in", &run_in, py::arg("workspace"), py::arg("program"), py::arg("open_stage"),
             py::arg("address"), py::arg("shape"), py::arg("strategy"), py::kw_only(), py::arg("sink"),
             py::arg("element_bytes"), py::arg("stage") = "decode", py::arg("observer") = py::none());

  const PlannerOptions defaults;
  module.def("strategies", &strategies, py::arg("program"), py::arg("size"), py::kw_only(), py::arg("element_bytes"),
             py::arg("budget"), py::arg("whole_bytes") = py::none(), py::arg("rate") = defaults.rate,
             py::arg("spill_rate") = defaults.spill_rate);
  module.def("run_program", &run, py::arg("program"), py::arg("open_stage"), py::arg("input"), py::arg("strategy"),
             py::kw_only(), py::arg("sink"), py::arg("element_bytes"), py::arg("threads") = 0,
             py::arg("scratch") = "/tmp", py::arg("stage") = "decode", py::arg("workspace") = nullptr,
             py::arg("observer") = py::none());
}

}  // namespace ctfast::bindings
