// Fuzzes the plan reader: mutates a small valid plan, repairs its checksums part of the time so that the deeper checks
// are reached, and expects every input to be read in full or refused with PlanRefused. To be built with sanitizers.
//
//   fuzz_plan [inputs] [seed]      prints how often each check refused; fails if one never did
//
// With CTFAST_LIBFUZZER defined there is no main, and libFuzzer can drive LLVMFuzzerTestOneInput.
#include <array>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <random>
#include <string>

#include "core/plan.h"
#include "tiny_plan.h"

namespace {

using ctfast::Plan;
using ctfast::PlanFault;
using ctfast::PlanRefused;
using tiny_plan::Bytes;
using tiny_plan::entry;

constexpr std::array kFaults = {"file",      "size",     "magic",    "version",   "header", "truncated",
                                "appended",  "table",    "manifest", "name",      "bounds", "overlap",
                                "alignment", "checksum", "padding",  "no_section"};
static_assert(kFaults.size() == static_cast<std::size_t>(PlanFault::no_section) + 1);

struct Counts {
  std::array<long, kFaults.size()> refused{};
  long opened = 0;
  long verified = 0;
};

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "fuzz_plan: %s\n", what);
  std::abort();
}

// Reads everything a plan offers, as a runtime would.
void exercise(std::span<const std::byte> input, Counts& counts) {
  try {
    const auto plan = Plan::parse(input);
    ++counts.opened;
    unsigned sum = 0;  // of every byte handed out, so that the sanitizers see them all read
    for (const char c : plan->manifest()) sum += static_cast<unsigned char>(c);
    for (const ctfast::PlanSection& section : plan->sections()) {
      if (section.name.empty() || section.name.size() > 128) fail("accepted a bad section name");
      if (section.offset % 4096 != 0) fail("accepted an unaligned section");
      for (const std::byte b : plan->section(section.name)) sum += std::to_integer<unsigned>(b);
    }
    if (plan->identity().size() != 64 || sum == 0xffffffff) fail("impossible identity or sum");
    try {
      plan->section("absent");
      fail("found a section that is not there");
    } catch (const PlanRefused& refused) {
      ++counts.refused[static_cast<std::size_t>(refused.fault())];
    }
    plan->verify();
    ++counts.verified;
  } catch (const PlanRefused& refused) {
    if (std::string_view(refused.what()).size() < 20) fail("a refusal says too little");
    ++counts.refused[static_cast<std::size_t>(refused.fault())];
  }
}

class Mutator {
 public:
  explicit Mutator(std::uint64_t seed) : random_(seed), seed_(tiny_plan::make()) {}

  Bytes next() {
    Bytes bytes = seed_;
    const std::size_t changes = 1 + below(3);
    for (std::size_t i = 0; i < changes; ++i) change(bytes);
    if (bytes.size() >= tiny_plan::kHeaderBytes && below(8) != 0) {
      if (below(4) != 0) tiny_plan::put(std::span(bytes), tiny_plan::kFileSize, std::uint64_t{bytes.size()});
      tiny_plan::seal(bytes);
    }
    return bytes;
  }

 private:
  std::size_t below(std::size_t limit) { return static_cast<std::size_t>(random_() % limit); }

  template <typename T, std::size_t N>
  T pick(const T (&choices)[N]) {
    return choices[below(N)];
  }

  // Small, huge, and around every number that matters in the file.
  std::uint64_t number(const Bytes& bytes) {
    const std::uint64_t base =
        pick<std::uint64_t>({0, 128, 160, 192, entry(3), 4096, 8192, 12288, bytes.size(), std::uint64_t{1} << 31,
                             std::uint64_t{1} << 32, std::uint64_t{1} << 63});
    switch (below(4)) {
      case 0: return base;
      case 1: return base - 1 - below(3);
      case 2: return base + below(200);
      default: return below(4) == 0 ? random_() : base * below(5);
    }
  }

  void change(Bytes& bytes) {
    if (bytes.size() < entry(3)) return;
    const std::span<std::byte> all(bytes);
    const std::size_t which = below(3);
    switch (below(12)) {
      case 0:  // bits anywhere
        for (std::size_t i = 0, n = 1 + below(8); i < n; ++i) all[below(all.size())] ^= std::byte(1 << below(8));
        return;
      case 1:  // bits where the structure is
        for (std::size_t i = 0, n = 1 + below(8); i < n; ++i) all[below(entry(4))] ^= std::byte(1 << below(8));
        return;
      case 2: bytes.resize(below(4) == 0 ? below(bytes.size() + 1) : below(256)); return;
      case 3: bytes.resize(bytes.size() + 1 + below(5000), static_cast<std::byte>(below(2))); return;
      case 4:
        tiny_plan::put(all,
                       pick({tiny_plan::kFileSize, tiny_plan::kManifestOffset, tiny_plan::kManifestLength,
                             tiny_plan::kTableOffset}),
                       number(bytes));
        return;
      case 5:
        tiny_plan::put(all, pick({tiny_plan::kVersion, tiny_plan::kOldestReader, tiny_plan::kCount}),
                       static_cast<std::uint32_t>(number(bytes)));
        return;
      case 6: tiny_plan::put(all, tiny_plan::kCount, static_cast<std::uint32_t>(below(60))); return;
      case 7:
        tiny_plan::put(all, entry(which) + pick({tiny_plan::kEntryOffset, tiny_plan::kEntryLength}), number(bytes));
        return;
      case 8: tiny_plan::put(all, entry(which) + tiny_plan::kEntryOffset, std::uint64_t{4096 * below(6)}); return;
      case 9:
        tiny_plan::put(all, entry(which) + tiny_plan::kEntryNameLength,
                       static_cast<std::uint16_t>(below(4) == 0 ? random_() : below(140)));
        return;
      case 10:
        for (std::size_t i = 0, n = 1 + below(6); i < n; ++i) {
          all[entry(which) + tiny_plan::kEntryName + below(20)] =
              static_cast<std::byte>(pick({'.', '/', 'a', '-', '\0', '\n', '\x80', '\xff'}));
        }
        return;
      default:  // one entry over another, so names come twice and sections overlap
        std::copy_n(all.begin() + static_cast<std::ptrdiff_t>(entry(which)), tiny_plan::kEntryBytes,
                    all.begin() + static_cast<std::ptrdiff_t>(entry(below(3))));
        return;
    }
  }

  std::mt19937_64 random_;
  const Bytes seed_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Counts counts;
  exercise(std::as_bytes(std::span(data, size)), counts);
  return 0;
}

#ifndef CTFAST_LIBFUZZER
int main(int argc, char** argv) {
  const long inputs = argc > 1 ? std::atol(argv[1]) : 1'000'000;
  Mutator mutator(argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1);
  Counts counts;
  for (long i = 0; i < inputs; ++i) {
    Bytes bytes = mutator.next();
    // Without spare capacity, so that the sanitizer sees a read of the first byte past the end.
    bytes.shrink_to_fit();
    exercise(bytes, counts);
  }

  std::printf("%ld inputs: %ld opened, %ld of these verified; refusals:\n", inputs, counts.opened, counts.verified);
  bool all_reached = counts.verified > 0;
  for (std::size_t i = 1; i < kFaults.size(); ++i) {  // "file" is about paths, which parse() has not
    std::printf("  %-10s %8ld\n", kFaults[i], counts.refused[i]);
    all_reached = all_reached && counts.refused[i] > 0;
  }
  if (!all_reached) std::fprintf(stderr, "fuzz_plan: some check never refused, or nothing was verified\n");
  return all_reached ? 0 : 1;
}
#endif
