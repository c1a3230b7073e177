// Guesses what a file is from its first bytes, so that a refusal can tell the user what was given instead of a plan.
// Its twin is ctfast/file_kind.py: the same kinds, in the same order, in the same words.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string_view>

namespace ctfast {

// How many of a file's first bytes file_kind() looks at.
inline constexpr std::size_t kFileKindBytes = 512;

struct FileKind {
  std::string_view looks_like;  // "a NIfTI image"
  std::string_view remedy;      // a sentence without its full stop
};

// Nothing if the bytes look like none of the kinds that people mix up with plans.
std::optional<FileKind> file_kind(std::span<const std::byte> head);

}  // namespace ctfast
