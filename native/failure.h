// The one exception of the native core. It never crosses the C ABI or a thread: the engine thread and the addon catch
// it.
#pragma once

#include <stdexcept>
#include <string>

#include "backend.h"

namespace pagoda {

class Failure : public std::runtime_error {
 public:
  Failure(PagodaStatus status, const std::string& message) : std::runtime_error(message), status_(status) {}
  PagodaStatus status() const { return status_; }

 private:
  PagodaStatus status_;
};

/// Throws PAGODA_INVALID unless an input of the caller holds.
inline void require(bool condition, const std::string& message) {
  if (!condition) throw Failure(PAGODA_INVALID, message);
}

}  // namespace pagoda
