#include "progress.h"

#include <string>

#include "error.h"

namespace ctfast {

void report(const Observer& observer, const Progress& progress) {
  if (!observer || observer(progress)) return;
  throw Error(ErrorKind::cancelled, "cancelled in stage '" + std::string(progress.stage) + "' after " +
                                        std::to_string(progress.done) + " of " + std::to_string(progress.total));
}

}  // namespace ctfast
