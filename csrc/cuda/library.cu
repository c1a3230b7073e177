#include "ctfast_cuda.h"
#include "launch.h"

int ctfast_cuda_interface() { return kCudaInterface; }

const char* ctfast_cuda_error(int code) { return cudaGetErrorString(static_cast<cudaError_t>(code)); }

int ctfast_cuda_devices(int32_t* count) {
  int found = 0;
  const cudaError_t error = cudaGetDeviceCount(&found);
  *count = found;
  return static_cast<int>(error);
}
