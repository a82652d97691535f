// Finds backends: the built-in CPU one, and plug-ins that are shared libraries opened at run time.
#pragma once

#include <cstdint>
#include <string>

#include "backend.h"

namespace pagoda {

/// "cpu", or the path of a plug-in. Throws PAGODA_UNAVAILABLE with the reason. A plug-in stays loaded for ever.
const PagodaBackend* openBackend(const std::string& nameOrPath);

struct BackendReport {
  std::string name;
  std::string path;  // empty: built in
  bool available = false;
  std::string reason;  // why it is not available
  int32_t deviceCount = 0;
};

/// Never throws for a missing or broken plug-in: the report says why.
BackendReport inspectBackend(const std::string& nameOrPath);

}  // namespace pagoda
