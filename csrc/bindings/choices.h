// The words Python uses for the runtime's enumerations. A word that is not in a list is Error(request) naming the list.
#pragma once

#include <string>

#include "core/epilogue.h"
#include "core/sampler.h"
#include "core/solver.h"
#include "core/time_grid.h"
#include "sessions/openvino.h"

namespace ctfast::bindings {

Solver solver_of(const std::string& word);
GridMode grid_mode_of(const std::string& word);
GuidanceKind guidance_kind_of(const std::string& word);
Rounding rounding_of(const std::string& word);
Precision precision_of(const std::string& word);
std::string word_of(Precision precision);

enum class Method { flow, ddpm, ddim };
Method method_of(const std::string& word);

}  // namespace ctfast::bindings
