// Standard normal noise from a counter: element i of a stream depends on (seed, stream, i) alone, so chunking, batching
// and threads cannot change it. Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011)
// followed by Box-Muller.
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace ctfast {

// Ten rounds of Philox 4x32: 128 random bits for this counter under this key. Word 0 is the least significant.
std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key);

// Sample numbers stay below this; the bits above it number the streams of one sample.
inline constexpr std::uint64_t kMaxSample = std::uint64_t{1} << 48U;

// Writes elements first, first + 1, ... of stream `sample` of `seed`. Counter = (element / 4, stream), key = seed; each
// block of four words gives four normals. Computed in double, rounded once to float; |value| < 6.8.
void fill_normal(std::uint64_t seed, std::uint64_t sample, std::uint64_t first, std::span<float> out);

// The stream that step `step` (0, 1, ...) of a stochastic sampler draws from: ((step + 1) << 48) | sample. Stream
// `sample` itself is the initial noise. Throws Error(request) when sample >= kMaxSample or step is not in 0..65534.
std::uint64_t step_stream(std::uint64_t sample, std::int64_t step);

}  // namespace ctfast
