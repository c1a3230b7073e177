// What this build was made with and what this machine offers.
#include "bindings/module.h"
#include "core/cpu.h"
#include "sessions/openvino.h"

namespace ctfast::bindings {

namespace py = pybind11;

namespace {

py::dict build_info() {
  const CpuFeatures features = cpu_features();
  py::dict cpu;
  cpu["avx2"] = features.avx2;
  cpu["avx512"] = features.avx512;
  cpu["avx512_bf16"] = features.avx512_bf16;
  cpu["amx_bf16"] = features.amx_bf16;
  cpu["avx512_fp16"] = features.avx512_fp16;
  cpu["bf16"] = features.bf16();
  cpu["fp16"] = features.fp16();
  py::dict info;
  info["openvino"] = OpenVINOSession::version();
#if defined(__clang__)
  info["compiler"] = "clang " __clang_version__;
#else
  info["compiler"] = "gcc " __VERSION__;
#endif
  info["cpu"] = cpu;
  info["threads"] = available_threads();
  return info;
}

}  // namespace

void bind_build_info(py::module_& module) { module.def("build_info", &build_info); }

}  // namespace ctfast::bindings
