// C++ errors become the classes of ctfast/errors.py.
#include <exception>
#include <new>

#include "bindings/module.h"
#include "core/error.h"

namespace ctfast::bindings {

namespace py = pybind11;

namespace {

const char* class_name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::request: return "RequestError";
    case ErrorKind::plan: return "PlanError";
    case ErrorKind::device: return "DeviceError";
    case ErrorKind::memory: return "MemoryBudgetError";
    case ErrorKind::cancelled: return "CancelledError";
  }
  return "CtfastError";
}

void raise(const char* name, const char* message) {
  py::set_error(py::module_::import("ctfast.errors").attr(name), message);
}

}  // namespace

void register_errors() {
  // pybind11 fixes the signature.
  py::register_local_exception_translator(
      [](std::exception_ptr pointer) {  // NOLINT(performance-unnecessary-value-param)
        try {
          if (pointer) std::rethrow_exception(pointer);
        } catch (const Error& error) {
          raise(class_name(error.kind()), error.what());
        } catch (const std::bad_alloc&) {
          raise("MemoryBudgetError", "out of memory. Ask for a smaller size, or free memory.");
        }
      });
}

}  // namespace ctfast::bindings
