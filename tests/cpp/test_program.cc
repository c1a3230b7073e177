// Programs, their passes, and the planner.
#include <algorithm>
#include <string>

#include "check.h"
#include "core/planner.h"
#include "core/program.h"
#include "toy_program.h"

using ctfast::Error;
using ctfast::ErrorKind;
using ctfast::Extent3;
using ctfast::Keep;
using ctfast::Program;
using ctfast::Schedule;
using ctfast::StageSpec;
using ctfast::Strategy;

namespace {

int tensor(const Program& program, const std::string& name) {
  const auto found = std::ranges::find(program.tensors(), name, &ctfast::ProgramTensor::name);
  return static_cast<int>(found - program.tensors().begin());
}

std::vector<Keep> all_kept(const Program& program) { return std::vector<Keep>(program.tensors().size(), Keep::memory); }

std::vector<std::string> names(const Program& program, const std::vector<int>& stages) {
  std::vector<std::string> all;
  for (const int stage : stages) all.push_back(program.stages()[static_cast<std::size_t>(stage)].name);
  return all;
}

using Names = std::vector<std::string>;

void refusals() {
  const auto with = [](auto&& change) {
    std::vector<StageSpec> stages = toy::decoder_stages();
    change(stages);
    return Program("latent", 3, "image", std::move(stages));
  };
  CHECK_THROWS(ErrorKind::plan, "no stage before it writes", with([](auto& s) { s[1].reads = "nowhere"; }));
  CHECK_THROWS(ErrorKind::plan, "two stages write", with([](auto& s) { s[1].writes = "in"; }));
  CHECK_THROWS(ErrorKind::plan, "does not write 'image'", with([](auto& s) { s.back().writes = "picture"; }));
  CHECK_THROWS(ErrorKind::plan, "groups that do not divide", with([](auto& s) { s[1].norm->groups = 3; }));
  CHECK_THROWS(ErrorKind::plan, "norm weights", with([](auto& s) { s[1].norm->gamma.pop_back(); }));
  CHECK_THROWS(ErrorKind::plan, "other channels", with([](auto& s) { s[2].adds = "latent"; }));
  CHECK_THROWS(ErrorKind::plan, "negative", with([](auto& s) { s[1].before = -1; }));
  CHECK_THROWS(ErrorKind::plan, "scale by", with([](auto& s) { s[3].up = {0, 1, 1}; }));
  CHECK_THROWS(ErrorKind::plan, "no stage reads 'skip'", with([](auto& s) { s[6].adds = ""; }));
  CHECK_THROWS(ErrorKind::plan, "both adds", with([](auto& s) { s[2].skip = 1; }));
  const Program small_residual = with([](auto& s) {
    s.erase(s.begin() + 5);
    s[5].adds = "b1";
    s[5].channels = 4;
    s[6].norm->gamma.resize(4);
    s[6].norm->beta.resize(4);
  });
  CHECK_THROWS(ErrorKind::plan, "another size", small_residual.extents({2, 2, 2}));
}

void sizes() {
  const Program program = toy::decoder();
  const std::vector<Extent3> extents = program.extents({5, 3, 2});
  CHECK((extents[static_cast<std::size_t>(tensor(program, "b2"))] == Extent3{5, 3, 2}));
  CHECK((extents.back() == Extent3{10, 6, 4}));
  std::vector<StageSpec> stages = toy::decoder_stages();
  stages[3].up = {1, 1, 1};
  stages[3].down = {2, 2, 2};
  const Program encoder("latent", 3, "image", std::move(stages));
  CHECK((encoder.extents({4, 6, 2}).back() == Extent3{2, 3, 1}));
  CHECK_THROWS(ErrorKind::request, "along y", encoder.extents({4, 5, 2}));
}

// Kept tensors need one pass each; two that read the same are computed together.
void passes_when_all_is_kept() {
  const Program program = toy::decoder();
  const std::vector<Extent3> extents = program.extents({4, 2, 2});
  const Schedule schedule = make_schedule(program, extents, all_kept(program), 4);
  std::vector<Names> sinks;
  for (const ctfast::Pass& pass : schedule.passes) {
    sinks.push_back(names(program, pass.sinks));
    CHECK(pass.stages == pass.sinks);
  }
  CHECK((sinks == std::vector<Names>{{"in"}, {"b1"}, {"b2"}, {"up"}, {"c1", "skip"}, {"c2"}, {"image"}}));
  // c1 and skip lie side by side where up was.
  const auto place = [&](const char* name) { return schedule.places[static_cast<std::size_t>(tensor(program, name))]; };
  CHECK(place("c1").slot == place("up").slot && place("c1").offset == 0);
  CHECK(place("skip").slot == place("up").slot && place("skip").offset == 4 * 4 * 2 * 4);
}

// What is streamed is computed in each pass that needs it, and first of all for its statistics.
void passes_when_a_tensor_is_streamed() {
  const Program program = toy::decoder();
  const std::vector<Extent3> extents = program.extents({4, 2, 2});
  std::vector<Keep> keep = all_kept(program);
  keep[static_cast<std::size_t>(tensor(program, "up"))] = Keep::stream;
  keep[static_cast<std::size_t>(tensor(program, "skip"))] = Keep::stream;
  const Schedule schedule = make_schedule(program, extents, keep, 4);
  std::vector<Names> stages;
  for (const ctfast::Pass& pass : schedule.passes) stages.push_back(names(program, pass.stages));
  CHECK((stages == std::vector<Names>{{"in"}, {"b1"}, {"b2"}, {"up"}, {"up", "c1"}, {"up", "skip", "c2"}, {"image"}}));
  const double plain = make_schedule(program, extents, all_kept(program), 4).multiply_adds;
  const double up = 3 * 4 * 8 * 4 * 4;
  CHECK_NEAR(schedule.multiply_adds, plain + 2 * up, 1e-9);
}

void spilled_tensors_are_counted() {
  const Program program = toy::decoder();
  const std::vector<Extent3> extents = program.extents({4, 2, 2});
  std::vector<Keep> keep = all_kept(program);
  keep[static_cast<std::size_t>(tensor(program, "up"))] = Keep::spill;
  const Schedule schedule = make_schedule(program, extents, keep, 2);
  CHECK(schedule.spilled_bytes == 3 * (8 * 4 * 4 * 4 * 2));  // written once, read by c1 and by skip
  CHECK(schedule.places[static_cast<std::size_t>(tensor(program, "up"))].slot == -1);
}

const Strategy& kind(const std::vector<Strategy>& strategies, const std::string& name) {
  return *std::ranges::find(strategies, name, &Strategy::name);
}

// A budget that shrinks from more than enough to nothing.
void strategies_follow_the_budget() {
  const Program program = toy::decoder();
  const Extent3 size{32, 256, 256};
  ctfast::PlannerOptions options;
  options.budget = std::int64_t{1} << 40;
  const std::vector<Strategy> free = plan_strategies(program, size, options);
  CHECK(free.size() == 3);  // without the whole network
  CHECK(kind(free, "in_place").fits && kind(free, "in_place").work == 1.0);
  CHECK(kind(free, "recompute").work == 1.0 && kind(free, "spill").spilled_bytes == 0);
  double work = 1.0;
  std::int64_t spilled = 0;
  for (options.budget = kind(free, "in_place").peak_bytes; options.budget > 1000;
       options.budget = options.budget * 3 / 4) {
    const std::vector<Strategy> now = plan_strategies(program, size, options);
    for (const Strategy& strategy : now) CHECK(strategy.fits == (strategy.peak_bytes <= options.budget));
    const Strategy& recompute = kind(now, "recompute");
    CHECK(recompute.spilled_bytes == 0 && kind(now, "spill").work == 1.0);
    if (recompute.fits) CHECK(recompute.work >= work);
    if (kind(now, "spill").fits) CHECK(kind(now, "spill").spilled_bytes >= spilled);
    if (recompute.fits) work = recompute.work;
    if (kind(now, "spill").fits) spilled = kind(now, "spill").spilled_bytes;
  }
  CHECK(work > 1.5 && spilled > 0);
}

void the_whole_network_is_one_strategy() {
  const Program program = toy::decoder();
  ctfast::PlannerOptions options;
  options.budget = 1000;
  options.whole_bytes = 1001;
  CHECK(!plan_strategies(program, {4, 2, 2}, options).front().fits);
  options.whole_bytes = 1000;
  CHECK(plan_strategies(program, {4, 2, 2}, options).front().fits);
  CHECK(plan_strategies(program, {4, 2, 2}, options).front().name == "whole");
}

// More elements than 32 bits count, in a volume and in a plane: slabs stay below what a backend can address.
void sizes_beyond_32_bits() {
  const Program program = toy::decoder();
  ctfast::PlannerOptions options;
  options.budget = std::int64_t{1} << 50;
  for (const Strategy& strategy : plan_strategies(program, {4096, 4096, 4096}, options)) {
    CHECK(strategy.peak_bytes > std::int64_t{8192} * 8192 * 8192 * 4 * 2);
    CHECK(std::ranges::all_of(strategy.rows, [](std::int64_t rows) { return rows * 8192 * 8192 * 4 < INT32_MAX; }));
  }
}

void rows_divide_the_volume() {
  const Program program = toy::decoder();
  const std::vector<Extent3> extents = program.extents({30, 8, 8});
  for (std::int64_t bytes = 1; bytes < 1 << 24; bytes *= 2) {
    const std::vector<std::int64_t> rows = slab_rows(program, extents, bytes, 4);
    for (std::size_t stage = 0; stage < rows.size(); ++stage) {
      CHECK(rows[stage] >= 1 && rows[stage] <= extents[stage + 1][0]);
      CHECK(rows[stage] % program.stages()[stage].up[0] == 0);
    }
    CHECK(rows[4] == rows[5]);
  }
}

}  // namespace

int main() {
  check::test("programs that do not fit together are refused", refusals);
  check::test("extents follow the stages", sizes);
  check::test("passes when all is kept", passes_when_all_is_kept);
  check::test("passes when a tensor is streamed", passes_when_a_tensor_is_streamed);
  check::test("spilled tensors are counted", spilled_tensors_are_counted);
  check::test("strategies follow the budget", strategies_follow_the_budget);
  check::test("the whole network is one strategy", the_whole_network_is_one_strategy);
  check::test("sizes beyond 32 bits", sizes_beyond_32_bits);
  check::test("rows divide the volume", rows_divide_the_volume);
  return check::finish();
}
