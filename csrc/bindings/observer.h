// A Python callable as the runtime's observer.
#pragma once

#include <pybind11/pybind11.h>

#include "core/progress.h"

namespace ctfast::bindings {

// `callable` is None or observer(stage: str, done: int, total: int) -> bool | None, where False cancels. The result
// takes the interpreter lock when called, lets signal handlers run (so that Ctrl-C surfaces between network calls even
// when nobody observes), and must not outlive `callable`.
Observer observer_of(const pybind11::object& callable);

}  // namespace ctfast::bindings
