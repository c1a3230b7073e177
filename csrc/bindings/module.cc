// ctfast._native: a table of contents. Signatures for Python readers are in ctfast/_native.pyi.
#include "bindings/module.h"

PYBIND11_MODULE(_native, module) {
  using namespace ctfast::bindings;
  module.doc() = "The native runtime of ctfast: plans, sessions, noise, solvers, decoding.";
  register_errors();
  bind_build_info(module);
  bind_plan(module);
  bind_sessions(module);
  bind_numerics(module);
  bind_windows(module);
  bind_epilogue(module);
  bind_sample(module);
  bind_decode(module);
  bind_program(module);
}
