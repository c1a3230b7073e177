// What each file of this folder adds to the module.
#pragma once

#include <pybind11/pybind11.h>

namespace ctfast::bindings {

void register_errors();
void bind_build_info(pybind11::module_& module);
void bind_plan(pybind11::module_& module);
void bind_sessions(pybind11::module_& module);
void bind_numerics(pybind11::module_& module);
void bind_windows(pybind11::module_& module);
void bind_epilogue(pybind11::module_& module);
void bind_sample(pybind11::module_& module);
void bind_decode(pybind11::module_& module);
void bind_program(pybind11::module_& module);

}  // namespace ctfast::bindings
