// What libctfast_cuda gives to the rest: C functions over arrays on a CUDA device.
//
// Each puts its work into a stream (a cudaStream_t; null is the default one) of the thread's current device and returns
// at once: nothing is allocated, nothing is waited for. The result is a CUDA error code, 0 for success; what depends on
// values is counted in an array on the device. Shapes and strides are the caller's to check: ctfast/cuda.py does.
// Strides count elements. Arrays may hold more than 2^31 elements.
#pragma once

#include <stdint.h>

#define CTFAST_CUDA_API extern "C" __attribute__((visibility("default")))

// Changes with the functions below.
constexpr int kCudaInterface = 1;

// Types of elements.
enum CtfastType : int32_t { kFloat32 = 0, kBfloat16 = 1, kUint8 = 2, kUint16 = 3 };

CTFAST_CUDA_API int ctfast_cuda_interface();

// What an error code means; valid for good.
CTFAST_CUDA_API const char* ctfast_cuda_error(int code);

// How many devices there are; an error where there is no driver.
CTFAST_CUDA_API int ctfast_cuda_devices(int32_t* count);

// Elements first, first + 1, ... of stream `sample` of `seed`, as core/noise.h's fill_normal: the device's sine, cosine
// and logarithm differ from the computer's in the last place of a double, before rounding to float.
CTFAST_CUDA_API int ctfast_cuda_noise(uint64_t seed, uint64_t sample, uint64_t first, float* out, int64_t count,
                                      void* stream);

// One SolverCall (core/solver.h) on contiguous arrays of `count` elements, in one pass. coefficients: point, velocity,
// keep, mix[3], stay, lead[2], read before this returns. `conditional` is the velocity; with `plain` (or null), the
// guided one is plain + guidance * (conditional - plain). newest gets the prediction, unless null; second and third are
// the predictions before, null where they count as zero. x and y may be one array. wide: in float64, as all solvers but
// Euler are meant; otherwise in float32.
CTFAST_CUDA_API int ctfast_cuda_solver_update(const double* coefficients, float* x, float* y, const float* conditional,
                                              const float* plain, float guidance, float* newest, const float* second,
                                              const float* third, int64_t count, int32_t wide, void* stream);

// As core/epilogue.h's to_hu: image (float32 or bfloat16), labels (uint8, uint16 or null) and out have one shape of
// three extents and strides of their own. low and high are within int16. `bad` grows by the number of voxels that are
// not finite; they become what 0 does.
CTFAST_CUDA_API int ctfast_cuda_intensities(const void* image, int32_t image_type, const int64_t* image_strides,
                                            const void* labels, int32_t labels_type, const int64_t* labels_strides,
                                            int16_t* out, const int64_t* out_strides, const int64_t* extents,
                                            float scale, float offset, float low, float high, int16_t air,
                                            int32_t nearest, uint64_t* bad, void* stream);

// Slabs into which ctfast_cuda_channel_sums cuts a tensor: `partial` has room for slabs x 2 x channels doubles.
CTFAST_CUDA_API int64_t ctfast_cuda_channel_slabs(int64_t voxels, int64_t channels);

// Adds sums of values and of their squares per channel (contiguous channels-last values, float32 or bfloat16) to totals
// (2 x channels), in float64 and in an order that depends on the shape alone.
CTFAST_CUDA_API int ctfast_cuda_channel_sums(const void* values, int32_t type, int64_t voxels, int64_t channels,
                                             double* partial, double* totals, void* stream);

// Adds one window to a volume, as core/stitch.h's Stitcher::add: out is channels x (volume * scale), patch is channels
// x (window * scale), total the sum of weights, of the volume's size; row-major all three. weights: window[0] +
// window[1] + window[2] values one behind the other. Windows one after another in one stream give the Stitcher's bits.
CTFAST_CUDA_API int ctfast_cuda_stitch_add(float* out, float* total, const float* patch, const float* weights,
                                           float floor, const int64_t* volume, const int64_t* window,
                                           const int64_t* start, const int64_t* scale, int64_t channels, void* stream);

// Divides by the weights.
CTFAST_CUDA_API int ctfast_cuda_stitch_finish(float* out, const float* total, const int64_t* volume,
                                              const int64_t* scale, int64_t channels, void* stream);

// Counts values of each label: counts (labels x bins) grow by the voxels of label l with value first + b, in row l.
// Values outside fall into the first and the last bin. Label 0, which is no organ, and labels from `labels` on are left
// out. All arrays are contiguous.
CTFAST_CUDA_API int ctfast_cuda_count_values(const int16_t* values, const void* labels, int32_t labels_type,
                                             int64_t voxels, uint32_t* counts, int64_t rows, int64_t bins,
                                             int64_t first, void* stream);

// Median of each row of counts, as NumPy's, and how many were counted; NaN where none were.
CTFAST_CUDA_API int ctfast_cuda_medians(const uint32_t* counts, int64_t rows, int64_t bins, int64_t first,
                                        float* medians, int64_t* counted, void* stream);
