// Finds backends and opens their devices: the built-in CPU one, and plug-ins that are shared libraries opened at run
// time.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "backend.h"
#include "device.h"

namespace pagoda {

/// "cpu", or the path of a plug-in. Throws PAGODA_UNAVAILABLE with the reason. A plug-in stays loaded for ever.
const PagodaBackend* openBackend(const std::string& nameOrPath);

constexpr int32_t kAnyDevice = -1;

/// Opens `options.device`; of kAnyDevice it makes the index of the first device that can be used. Throws with the
/// reason of each that cannot.
std::unique_ptr<Device> openDevice(const PagodaBackend* backend, PagodaDeviceOptions& options);

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
