#include "plug-in.h"

#if defined(_WIN32)
#else
#include <dlfcn.h>
#endif

#include "cpu/backend.h"
#include "failure.h"

namespace pagoda {

namespace {

[[noreturn]] void unavailable(const std::string& path, const std::string& reason) {
  throw Failure(PAGODA_UNAVAILABLE, "Backend plug-in " + path + ": " + reason);
}

#if defined(_WIN32)
PagodaBackendEntry findEntry(const std::string& path) {
  unavailable(path, "plug-ins are not supported on this platform");
}
#else
std::string lastError() {
  const char* text = dlerror();
  return text ? text : "unknown error of the dynamic loader";
}

PagodaBackendEntry findEntry(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) unavailable(path, lastError());
  void* entry = dlsym(library, PAGODA_BACKEND_ENTRY);
  if (!entry) {
    const std::string reason = lastError();
    dlclose(library);
    unavailable(path, reason);
  }
  return reinterpret_cast<PagodaBackendEntry>(entry);
}
#endif

const PagodaBackend* loadPlugIn(const std::string& path) {
  const PagodaBackend* backend = findEntry(path)();
  if (!backend) unavailable(path, "it returned no backend");
  if (backend->abiVersion != PAGODA_ABI_VERSION || backend->structSize != sizeof(PagodaBackend)) {
    unavailable(path, "it was built for ABI " + std::to_string(backend->abiVersion) + ", this package has ABI " +
                          std::to_string(PAGODA_ABI_VERSION) + "; install the same version of both");
  }
  return backend;
}

}  // namespace

const PagodaBackend* openBackend(const std::string& nameOrPath) {
  return nameOrPath == "cpu" ? pagodaCpuBackend() : loadPlugIn(nameOrPath);
}

std::unique_ptr<Device> openDevice(const PagodaBackend* backend, PagodaDeviceOptions& options) {
  if (options.device != kAnyDevice) return std::make_unique<Device>(backend, options);
  PagodaError error = {};
  int32_t count = 0;
  if (const PagodaStatus status = backend->deviceCount(&count, &error)) throw Failure(status, error.message);
  std::string reasons;
  for (options.device = 0; options.device < count; ++options.device) {
    try {
      return std::make_unique<Device>(backend, options);
    } catch (const Failure& failure) {
      if (failure.status() != PAGODA_UNAVAILABLE) throw;
      reasons += (reasons.empty() ? "" : "; ") + std::string(failure.what());
    }
  }
  throw Failure(PAGODA_UNAVAILABLE, reasons);
}

BackendReport inspectBackend(const std::string& nameOrPath) {
  BackendReport report;
  report.name = nameOrPath;
  if (nameOrPath != "cpu") report.path = nameOrPath;
  try {
    const PagodaBackend* backend = openBackend(nameOrPath);
    report.name = backend->name;
    PagodaError error = {};
    if (backend->deviceCount(&report.deviceCount, &error) == PAGODA_OK) {
      report.available = true;
    } else {
      report.reason = error.message;
    }
  } catch (const Failure& failure) {
    report.reason = failure.what();
  }
  return report;
}

}  // namespace pagoda
