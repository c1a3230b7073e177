// What this processor and this container offer.
#pragma once

namespace ctfast {

struct CpuFeatures {
  bool avx2 = false;
  bool avx512 = false;       // F, BW, VL and DQ, as oneDNN's AVX-512 kernels need
  bool avx512_bf16 = false;  // dot products of bfloat16
  bool amx_bf16 = false;     // tile products of bfloat16
  bool avx512_fp16 = false;  // arithmetic of half precision

  // Whether bfloat16 or half-precision networks run faster than float32 ones.
  bool bf16() const { return avx512_bf16 || amx_bf16; }
  bool fp16() const { return avx512_fp16; }
};

CpuFeatures cpu_features();

// Processors this process may use: the scheduler's affinity mask, or less where a cgroup (a container) has a CPU quota.
// At least 1.
int available_threads();

}  // namespace ctfast
