// SHA-256 (FIPS 180-4), the checksum of the plan file.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace ctfast {

using Sha256Digest = std::array<std::byte, 32>;

// Feed any number of pieces, then ask once for the digest.
class Sha256 {
 public:
  Sha256();
  void update(std::span<const std::byte> bytes);
  Sha256Digest finish();

 private:
  void compress(const std::byte* block);

  std::array<std::uint32_t, 8> state_;
  std::array<std::byte, 64> block_;
  std::uint64_t total_ = 0;
};

Sha256Digest sha256(std::span<const std::byte> bytes);

// Lower-case hexadecimal, two digits a byte.
std::string to_hex(std::span<const std::byte> bytes);

}  // namespace ctfast
