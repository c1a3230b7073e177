// One error type for the native runtime; the bindings turn each kind into its twin in ctfast/errors.py.
#pragma once

#include <stdexcept>
#include <string>

namespace ctfast {

enum class ErrorKind { request, plan, device, memory, cancelled };

// The message says what was expected, what was found and what to do about it.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const noexcept { return kind_; }

 private:
  ErrorKind kind_;
};

}  // namespace ctfast
