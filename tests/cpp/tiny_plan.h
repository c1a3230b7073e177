// A small valid plan, written field by field as docs/plan_format.md has it, for the tests of the reader to spoil.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include "core/sha256.h"

namespace tiny_plan {

using Bytes = std::vector<std::byte>;

// Where the fields of the header and of a table entry lie.
inline constexpr std::size_t kVersion = 8, kOldestReader = 12, kRelease = 16, kFileSize = 24, kManifestOffset = 32,
                             kManifestLength = 40, kManifestSha = 48, kTableOffset = 80, kCount = 88, kTableSha = 96,
                             kHeaderSha = 128, kHeaderBytes = 160;
inline constexpr std::size_t kEntryOffset = 0, kEntryLength = 8, kEntrySha = 16, kEntryNameLength = 48, kEntryName = 64,
                             kEntryBytes = 192;
inline constexpr std::string_view kManifest = R"({"format":1,"name":"tiny, für Tests"})";

template <typename Integer>
void put(std::span<std::byte> bytes, std::size_t at, Integer value) {
  for (std::size_t i = 0; i < sizeof(Integer); ++i) bytes[at + i] = static_cast<std::byte>(value >> (8 * i));
}

template <typename Integer>
Integer get(std::span<const std::byte> bytes, std::size_t at) {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < sizeof(Integer); ++i) value |= std::to_integer<std::uint64_t>(bytes[at + i]) << (8 * i);
  return static_cast<Integer>(value);
}

inline void put_text(std::span<std::byte> bytes, std::size_t at, std::string_view text) {
  std::transform(text.begin(), text.end(), bytes.begin() + static_cast<std::ptrdiff_t>(at),
                 [](char c) { return static_cast<std::byte>(c); });
}

inline std::size_t entry(std::size_t index) { return kHeaderBytes + index * kEntryBytes; }

// Writes the SHA-256 of a range to where it belongs; ranges that do not lie in the file are left alone.
inline void seal_range(std::span<std::byte> bytes, std::uint64_t offset, std::uint64_t length, std::size_t to) {
  if (offset > bytes.size() || length > bytes.size() - offset || to + 32 > bytes.size()) return;
  const ctfast::Sha256Digest digest = ctfast::sha256(bytes.subspan(offset, length));
  std::copy(digest.begin(), digest.end(), bytes.begin() + static_cast<std::ptrdiff_t>(to));
}

// Makes the checksums of manifest, table and header right again after a change, so that later checks are reached.
inline void seal(std::span<std::byte> bytes) {
  if (bytes.size() < kHeaderBytes) return;
  seal_range(bytes, get<std::uint64_t>(bytes, kManifestOffset), get<std::uint64_t>(bytes, kManifestLength),
             kManifestSha);
  seal_range(bytes, get<std::uint64_t>(bytes, kTableOffset), get<std::uint32_t>(bytes, kCount) * kEntryBytes,
             kTableSha);
  seal_range(bytes, 0, kHeaderSha, kHeaderSha);
}

// Three sections: "denoiser/model.xml" of 40 bytes, "denoiser/model.bin" of 100, "notes" of none.
inline Bytes make() {
  struct Section {
    std::string_view name;
    std::size_t length;
  };
  constexpr Section kSections[] = {{"denoiser/model.xml", 40}, {"denoiser/model.bin", 100}, {"notes", 0}};
  constexpr std::size_t kSectionCount = std::size(kSections);
  const std::size_t manifest_at = entry(kSectionCount);
  Bytes bytes(4096 * (kSectionCount + 1));
  put_text(bytes, 0, "CTFASTPL");
  put(bytes, kVersion, std::uint32_t{1});
  put(bytes, kOldestReader, std::uint32_t{1});
  put(bytes, kRelease + 2, std::uint16_t{1});
  put(bytes, kManifestOffset, std::uint64_t{manifest_at});
  put(bytes, kManifestLength, std::uint64_t{kManifest.size()});
  put(bytes, kTableOffset, std::uint64_t{kHeaderBytes});
  put(bytes, kCount, static_cast<std::uint32_t>(kSectionCount));
  put_text(bytes, manifest_at, kManifest);
  for (std::size_t i = 0; i < kSectionCount; ++i) {
    const auto& [name, length] = kSections[i];
    const std::size_t offset = 4096 * (i + 1);
    for (std::size_t k = 0; k < length; ++k) bytes[offset + k] = static_cast<std::byte>(3 * k + i + 1);
    put(bytes, entry(i) + kEntryOffset, std::uint64_t{offset});
    put(bytes, entry(i) + kEntryLength, std::uint64_t{length});
    put(bytes, entry(i) + kEntryNameLength, static_cast<std::uint16_t>(name.size()));
    put_text(bytes, entry(i) + kEntryName, name);
    seal_range(bytes, offset, length, entry(i) + kEntrySha);
  }
  put(bytes, kFileSize, std::uint64_t{bytes.size()});
  seal(bytes);
  return bytes;
}

}  // namespace tiny_plan
