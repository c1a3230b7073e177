#include "bindings/choices.h"

#include <array>
#include <string_view>
#include <utility>

#include "core/error.h"

namespace ctfast::bindings {

namespace {

template <typename Value, std::size_t N>
Value choose(const char* what, const std::string& word,
             const std::array<std::pair<std::string_view, Value>, N>& choices) {
  std::string known;
  for (const auto& [name, value] : choices) {
    if (name == word) return value;
    known += (known.empty() ? "'" : ", '") + std::string(name) + "'";
  }
  throw Error(ErrorKind::request, std::string(what) + " should be one of " + known + " and is '" + word + "'");
}

constexpr std::array<std::pair<std::string_view, Precision>, 3> kPrecisions{
    {{"fp32", Precision::fp32}, {"bf16", Precision::bf16}, {"fp16", Precision::fp16}}};

}  // namespace

Solver solver_of(const std::string& word) {
  return choose<Solver, 5>("solver", word,
                           {{{"euler", Solver::euler},
                             {"heun", Solver::heun},
                             {"ab2", Solver::ab2},
                             {"dpmpp_2m", Solver::dpmpp_2m},
                             {"unipc", Solver::unipc}}});
}

GridMode grid_mode_of(const std::string& word) {
  return choose<GridMode, 2>("time grid", word, {{{"monai", GridMode::monai}, {"exact", GridMode::exact}}});
}

GuidanceKind guidance_kind_of(const std::string& word) {
  return choose<GuidanceKind, 3>(
      "guidance kind", word,
      {{{"none", GuidanceKind::none}, {"modality", GuidanceKind::modality}, {"tumour", GuidanceKind::tumour}}});
}

Rounding rounding_of(const std::string& word) {
  return choose<Rounding, 2>("rounding", word, {{{"nearest", Rounding::nearest}, {"truncate", Rounding::truncate}}});
}

Precision precision_of(const std::string& word) {
  return choose<Precision, kPrecisions.size()>("precision", word, kPrecisions);
}

std::string word_of(Precision precision) {
  for (const auto& [name, value] : kPrecisions) {
    if (value == precision) return std::string(name);
  }
  return "unknown";
}

Method method_of(const std::string& word) {
  return choose<Method, 3>("method", word, {{{"flow", Method::flow}, {"ddpm", Method::ddpm}, {"ddim", Method::ddim}}});
}

}  // namespace ctfast::bindings
