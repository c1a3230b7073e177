// Keeps other threads off the sessions of a request while it runs.
#pragma once

#include <mutex>

#include "core/session.h"

namespace ctfast::bindings {

// Take it without the interpreter lock: the request that holds a session may need that lock to go on.
class SessionLock {
 public:
  explicit SessionLock(Session& first, Session* second = nullptr) : first_(first.in_use(), std::defer_lock) {
    if (second == nullptr || second == &first) {
      first_.lock();
      return;
    }
    second_ = std::unique_lock(second->in_use(), std::defer_lock);
    std::lock(first_, second_);
  }

 private:
  std::unique_lock<std::recursive_mutex> first_;
  std::unique_lock<std::recursive_mutex> second_;
};

}  // namespace ctfast::bindings
