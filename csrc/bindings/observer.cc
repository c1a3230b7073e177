#include "bindings/observer.h"

namespace ctfast::bindings {

namespace py = pybind11;

Observer observer_of(const py::object& callable) {
  const py::handle function = callable;  // a plain pointer: the observer is copied and destroyed without the lock
  return [function](const Progress& progress) {
    const py::gil_scoped_acquire lock;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    if (function.is_none()) return true;
    const py::object answer =
        function(py::str(progress.stage.data(), progress.stage.size()), progress.done, progress.total);
    return !answer.is(py::bool_(false));
  };
}

}  // namespace ctfast::bindings
