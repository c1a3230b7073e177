// The arithmetic of one element, written once for the loops of csrc/core and the kernels of csrc/cuda: what is in this
// folder compiles as C++ and as CUDA C++, uses no library that a device has not, and is meant for compilers that do not
// contract a product and a sum into one operation (-ffp-contract=off, --fmad=false).
#pragma once

#if defined(__CUDACC__)
#define CTFAST_HOST_DEVICE __host__ __device__
#else
#define CTFAST_HOST_DEVICE
#endif
