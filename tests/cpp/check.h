// The few lines of test framework the C++ tests need. Each test file calls test(name, body) from main and returns
// finish(); a failed check reports where it stands and lets the others run.
#pragma once

#include <cmath>
#include <cstdio>
#include <exception>
#include <string>

#include "core/error.h"

namespace check {

inline int failures = 0;

inline void that(bool ok, const char* file, int line, const std::string& what) {
  if (ok) return;
  ++failures;
  std::fprintf(stderr, "%s:%d: %s\n", file, line, what.c_str());
}

// A NaN is near nothing.
inline void near(double found, double expected, double tolerance, const char* file, int line, const char* what) {
  that(std::abs(found - expected) <= tolerance, file, line,
       std::string(what) + ": found " + std::to_string(found) + ", expected " + std::to_string(expected));
}

// body must throw ctfast::Error of this kind with `part` in its message.
template <class Body>
void throws(Body body, ctfast::ErrorKind kind, const std::string& part, const char* file, int line) {
  try {
    body();
  } catch (const ctfast::Error& error) {
    that(error.kind() == kind && std::string(error.what()).find(part) != std::string::npos, file, line,
         "error without \"" + part + "\": " + error.what());
    return;
  }
  that(false, file, line, "no error; expected one with \"" + part + "\"");
}

template <class Body>
void test(const char* name, Body body) {
  const int before = failures;
  try {
    body();
  } catch (const std::exception& error) {
    that(false, name, 0, std::string("unexpected exception: ") + error.what());
  }
  std::printf("%s %s\n", failures == before ? "ok  " : "FAIL", name);
}

inline int finish() { return failures == 0 ? 0 : 1; }

}  // namespace check

#define CHECK(condition) check::that((condition), __FILE__, __LINE__, #condition)
#define CHECK_NEAR(found, expected, tolerance) check::near((found), (expected), (tolerance), __FILE__, __LINE__, #found)
#define CHECK_THROWS(kind, part, ...) check::throws([&] { __VA_ARGS__; }, (kind), (part), __FILE__, __LINE__)
