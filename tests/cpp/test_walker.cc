// Every way of keeping tensors gives the whole network's result.
#include <bit>
#include <filesystem>
#include <random>
#include <string>

#include "check.h"
#include "core/statistics.h"
#include "core/walker.h"
#include "toy_program.h"

using ctfast::Error;
using ctfast::ErrorKind;
using ctfast::Extent3;
using ctfast::Keep;
using ctfast::Program;
using ctfast::Stage;
using ctfast::Strategy;
using ctfast::TensorView;

namespace {

std::vector<float> latent(const Extent3& size) {
  std::vector<float> values(static_cast<std::size_t>(size[0] * size[1] * size[2] * 3));
  ctfast::fill_normal(7, 0, 0, values);
  return values;
}

struct Run {
  std::vector<float> image;
  std::int64_t peak_bytes = 0;
  int sessions = 0;
};

Run run(const Program& program, const Extent3& size, std::vector<float>& input, const Strategy& strategy,
        const ctfast::Observer& observer = {}, ctfast::Arena* arena = nullptr) {
  Run result;
  ctfast::Arena own;
  const Extent3 extent = program.extents(size).back();
  result.image.resize(static_cast<std::size_t>(extent[0] * extent[1] * extent[2]));
  std::int64_t next = 0;
  const ctfast::RowSink sink = [&](std::int64_t first, const TensorView& rows) {
    CHECK(first == next);
    next = first + rows.shape[0];
    std::ranges::copy(rows.f32(), result.image.begin() + first * extent[1] * extent[2]);
  };
  const ctfast::OpenStage open = [&](const Stage& stage) {
    ++result.sessions;
    return std::make_shared<toy::StageSession>(stage);
  };
  ctfast::WalkOptions options;
  options.threads = 2;
  options.scratch = std::filesystem::temp_directory_path().string();
  const TensorView view{ctfast::DType::f32, {size[0], size[1], size[2], 3}, input.data()};
  result.peak_bytes =
      run_program(program, open, view, strategy, options, arena == nullptr ? own : *arena, sink, observer).peak_bytes;
  CHECK(next == extent[0]);
  return result;
}

double worst(const std::vector<float>& found, const toy::Volume& expected) {
  double most = 0.0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    most = std::max(most, std::abs(static_cast<double>(found[i]) - expected[i]));
  }
  return most;
}

Strategy strategy_of(const Program& program, const Extent3& size, std::vector<Keep> keep, std::int64_t slab_bytes) {
  const std::vector<Extent3> extents = program.extents(size);
  Strategy strategy;
  strategy.keep = std::move(keep);
  strategy.rows = slab_rows(program, extents, slab_bytes, 4);
  const ctfast::Schedule schedule = make_schedule(program, extents, strategy.keep, 4);
  strategy.peak_bytes = peak_bytes(program, extents, schedule, strategy.rows, 4);
  return strategy;
}

// All subsets of tensors in memory, the others streamed or spilled, with slabs of several sizes that divide the volume
// or do not; and the planner's prediction holds for each.
void every_subset() {
  const Program program = toy::decoder();
  std::mt19937 random(1);
  for (const Extent3& size : {Extent3{7, 1, 2}, Extent3{1, 2, 1}, Extent3{6, 2, 2}}) {
    std::vector<float> input = latent(size);
    const toy::Volume expected = toy::whole(program, size, input);
    const std::size_t between = program.tensors().size() - 2;
    for (unsigned bits = 0; bits < (1U << between); ++bits) {
      std::vector<Keep> keep(program.tensors().size(), Keep::memory);
      for (std::size_t i = 0; i < between; ++i) {
        if (((bits >> i) & 1U) != 0) keep[i + 1] = random() % 4 == 0 ? Keep::spill : Keep::stream;
      }
      const Strategy strategy = strategy_of(program, size, keep, std::int64_t{100} << (bits % 8));
      const Run found = run(program, size, input, strategy);
      CHECK(worst(found.image, expected) < 2e-5);
      CHECK(found.peak_bytes <= strategy.peak_bytes);
    }
  }
}

// One row at a time and all at once differ in nothing, and statistics are those of the whole volume.
void slabs_do_not_matter() {
  const Program program = toy::decoder();
  const Extent3 size{8, 2, 3};
  std::vector<float> input = latent(size);
  const std::vector<Keep> all(program.tensors().size(), Keep::memory);
  const Run small = run(program, size, input, strategy_of(program, size, all, 1));
  const Run large = run(program, size, input, strategy_of(program, size, all, 1 << 20));
  double most = 0.0;
  for (std::size_t i = 0; i < small.image.size(); ++i) {
    most = std::max(most, static_cast<double>(std::abs(small.image[i] - large.image[i])));
  }
  CHECK(most < 1e-6);
  CHECK(small.peak_bytes < large.peak_bytes);
}

// A causal network along z without norms: every stage sees two rows before its own, and the first row of an enlargement
// is dropped. One pass, each stage once.
void causal_in_one_pass() {
  ctfast::StageSpec up = toy::stage("up", "a", 2, 0);
  up.up = {2, 1, 1};
  up.before = up.after = 0;
  up.mask.reset();
  up.skip = 1;
  ctfast::StageSpec first = toy::stage("a", "latent", 2, 0);
  ctfast::StageSpec last = toy::stage("image", "up", 1, 0);
  for (ctfast::StageSpec* spec : {&first, &last}) {
    spec->before = 2;
    spec->after = 0;
    spec->mask.reset();
  }
  const Program program("latent", 3, "image", {first, up, last});
  CHECK((program.extents({5, 1, 1}).back() == Extent3{9, 1, 1}));

  // Sums over the rows seen; an enlargement repeats rows.
  class Causal : public ctfast::Session {
   public:
    explicit Causal(const Stage& stage) : stage_(stage) {}
    const std::vector<std::string>& inputs() const override { return names_; }
    const std::vector<std::string>& outputs() const override { return names_; }
    std::vector<ctfast::NamedTensor> run(const std::vector<ctfast::NamedTensor>&) override { return {}; }
    void run_into(const std::vector<ctfast::NamedTensor>& inputs, const TensorView& output) override {
      const TensorView& x = ctfast::find_tensor(inputs, "x");
      for (std::int64_t row = 0; row < output.shape[1]; ++row) {
        for (std::int64_t to = 0; to < stage_.channels; ++to) {
          float sum = 0.0F;
          for (std::int64_t d = 0; d <= stage_.before; ++d) {
            const auto index = static_cast<std::size_t>((row / stage_.up[0] + d) * x.shape[4] + to % x.shape[4]);
            sum += static_cast<float>(d + 1) * x.f32()[index];
          }
          output.f32()[static_cast<std::size_t>(row * stage_.channels + to)] = sum;
        }
      }
    }

   private:
    const Stage& stage_;
    std::vector<std::string> names_;
  };

  const Extent3 size{5, 1, 1};
  std::vector<float> input = latent(size);
  const auto row = [&](const std::vector<float>& values, std::int64_t r) {
    return values[static_cast<std::size_t>(std::max<std::int64_t>(r, 0))];
  };
  std::vector<float> a;
  for (std::int64_t r = 0; r < 5; ++r) {
    const auto at = [&](std::int64_t i) { return input[static_cast<std::size_t>(std::max<std::int64_t>(i, 0) * 3)]; };
    a.push_back(at(r - 2) + 2.0F * at(r - 1) + 3.0F * at(r));
  }
  std::vector<float> enlarged;
  for (std::int64_t r = 1; r < 10; ++r) enlarged.push_back(a[static_cast<std::size_t>(r / 2)]);
  for (std::int64_t rows : {1, 2, 3, 9}) {
    Strategy strategy;
    strategy.keep.assign(program.tensors().size(), Keep::stream);
    strategy.rows = {rows, rows + rows % 2, rows};
    int sessions = 0;
    std::vector<float> image(9);
    ctfast::Arena arena;
    const ctfast::OpenStage open = [&](const Stage& stage) {
      ++sessions;
      return std::make_shared<Causal>(stage);
    };
    const ctfast::RowSink sink = [&](std::int64_t at, const TensorView& slab) {
      std::ranges::copy(slab.f32(), image.begin() + at);
    };
    run_program(program, open, {ctfast::DType::f32, {5, 1, 1, 3}, input.data()}, strategy, {}, arena, sink, {});
    for (std::int64_t r = 0; r < 9; ++r) {
      const float expected = row(enlarged, r - 2) + 2.0F * row(enlarged, r - 1) + 3.0F * row(enlarged, r);
      CHECK_NEAR(static_cast<double>(image[static_cast<std::size_t>(r)]), static_cast<double>(expected), 1e-4);
    }
    CHECK(sessions == 3);
  }
}

void cancelling_and_refusals() {
  const Program program = toy::decoder();
  const Extent3 size{4, 1, 1};
  std::vector<float> input = latent(size);
  const std::vector<Keep> all(program.tensors().size(), Keep::memory);
  const Strategy strategy = strategy_of(program, size, all, 1);
  std::int64_t reports = 0;
  std::int64_t total = 0;
  run(program, size, input, strategy, [&](const ctfast::Progress& progress) {
    CHECK(progress.stage == "decode" && progress.done == reports);
    total = progress.total;
    ++reports;
    return true;
  });
  CHECK(reports == total + 1);
  const auto stop = [&](const ctfast::Progress& progress) { return progress.done < 3; };
  CHECK_THROWS(ErrorKind::cancelled, "after 3", run(program, size, input, strategy, stop));
  Strategy whole;
  whole.name = "whole";
  CHECK_THROWS(ErrorKind::request, "'whole'", run(program, size, input, whole));
  ctfast::Arena arena;
  const TensorView wrong{ctfast::DType::f32, {4, 1, 1, 2}, input.data()};
  CHECK_THROWS(ErrorKind::request, "(z, y, x, 3)", run_program(program, {}, wrong, strategy, {}, arena, {}, {}));
  Strategy spilled = strategy_of(program, size, std::vector<Keep>(program.tensors().size(), Keep::spill), 1);
  ctfast::WalkOptions nowhere;
  nowhere.scratch = "/nonexistent";
  const ctfast::OpenStage open = [](const Stage& stage) { return std::make_shared<toy::StageSession>(stage); };
  const TensorView view{ctfast::DType::f32, {4, 1, 1, 3}, input.data()};
  CHECK_THROWS(ErrorKind::memory, "/nonexistent",
               run_program(program, open, view, spilled, nowhere, arena, [](std::int64_t, const TensorView&) {}, {}));
}

// A second run finds the first one's memory, and a smaller one lets go of what it may not keep.
void memory_is_kept_between_runs() {
  const Program program = toy::decoder();
  const Extent3 size{8, 2, 3};
  std::vector<float> input = latent(size);
  const Strategy strategy =
      strategy_of(program, size, std::vector<Keep>(program.tensors().size(), Keep::memory), 1 << 10);
  ctfast::Arena arena;
  const Run first = run(program, size, input, strategy, {}, &arena);
  const std::int64_t kept = arena.kept_bytes();
  CHECK(kept > 0 && kept <= strategy.peak_bytes);
  const Run second = run(program, size, input, strategy, {}, &arena);
  CHECK(second.image == first.image && second.peak_bytes <= strategy.peak_bytes);
  CHECK(arena.kept_bytes() <= strategy.peak_bytes);
  const Extent3 small{2, 1, 1};
  std::vector<float> other = latent(small);
  const Strategy less = strategy_of(program, small, std::vector<Keep>(program.tensors().size(), Keep::memory), 1 << 10);
  run(program, small, other, less, {}, &arena);
  CHECK(arena.kept_bytes() <= less.peak_bytes);
  arena.clear();
  CHECK(arena.kept_bytes() == 0);
}

void an_arena_reuses_what_fits() {
  ctfast::Arena arena;
  arena.keep_within(3000);
  const std::byte* where = nullptr;
  {
    const ctfast::Arena::Block block = arena.allocate(1000);
    where = block.data();
  }
  CHECK(arena.kept_bytes() == 1000);
  {
    const ctfast::Arena::Block same = arena.allocate(950);
    CHECK(same.data() == where && same.bytes() == 1000);
    const ctfast::Arena::Block other = arena.allocate(500);
    CHECK(other.bytes() == 500 && arena.kept_bytes() == 0);
  }
  CHECK(arena.kept_bytes() == 1500 && arena.peak_bytes() == 1500);
  {
    const ctfast::Arena::Block large = arena.allocate(2000);
  }
  CHECK(arena.kept_bytes() == 2500);  // room was made by letting the larger of the two go
  arena.keep_within(100);
  CHECK(arena.kept_bytes() == 0);
}

// Against the textbook, with a mean much larger than the deviation; bfloat16 values are exact in float32.
void statistics() {
  const std::int64_t channels = 6;
  const std::int64_t voxels = 9000;
  std::vector<float> values(static_cast<std::size_t>(channels * voxels));
  ctfast::fill_normal(3, 0, 0, values);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = values[i] * 0.5F + 30.0F;
  std::vector<std::uint16_t> halves;
  std::vector<float> rounded;
  for (const float value : values) {
    halves.push_back(static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(value) >> 16U));
    rounded.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(halves.back()) << 16U));
  }
  const ctfast::GroupNorm norm{3, 1e-6, {1, 2, 3, 4, 5, 6}, {0, 1, 0, -1, 0, 2}};
  const auto expect = [&](const ctfast::ChannelSums& sums, const std::vector<float>& given) {
    const ctfast::ScaleShift found = ctfast::normalisation(sums.totals(), voxels, norm);
    for (std::size_t c = 0; c < 6; ++c) {
      double mean = 0.0;
      double variance = 0.0;
      const double n = 2.0 * static_cast<double>(voxels);
      for (std::size_t i = 0; i < given.size(); ++i) mean += i % 6 / 2 == c / 2 ? given[i] / n : 0.0;
      for (std::size_t i = 0; i < given.size(); ++i) {
        variance += i % 6 / 2 == c / 2 ? (given[i] - mean) * (given[i] - mean) / n : 0.0;
      }
      const double scale = static_cast<double>(norm.gamma[c]) / std::sqrt(variance + 1e-6);
      CHECK_NEAR(static_cast<double>(found.scale[c]) / scale, 1.0, 1e-6);
      CHECK_NEAR(static_cast<double>(found.shift[c]), static_cast<double>(norm.beta[c]) - mean * scale, 1e-4 * scale);
    }
  };
  for (int threads : {1, 2, 3}) {
    ctfast::ChannelSums whole(channels);
    whole.add(values.data(), ctfast::DType::f32, voxels, threads);
    expect(whole, values);
    ctfast::ChannelSums parts(channels);
    for (std::int64_t first = 0; first < voxels; first += 1700) {
      parts.add(halves.data() + first * channels, ctfast::DType::bf16, std::min<std::int64_t>(1700, voxels - first),
                threads);
    }
    expect(parts, rounded);
  }
}

}  // namespace

int main() {
  check::test("every subset of tensors gives the whole network's result", every_subset);
  check::test("slabs do not matter", slabs_do_not_matter);
  check::test("a causal network runs in one pass", causal_in_one_pass);
  check::test("cancelling and refusals", cancelling_and_refusals);
  check::test("memory is kept between runs", memory_is_kept_between_runs);
  check::test("an arena reuses what fits", an_arena_reuses_what_fits);
  check::test("statistics", statistics);
  return check::finish();
}
