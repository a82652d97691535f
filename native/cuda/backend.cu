// The CUDA plug-in: memory, copies, and the table of ops. A machine without a driver or a GPU loads it and hears why it
// is unavailable (open-device.h).
#include <cstring>
#include <tuple>

#include "capi.h"
#include "device.h"
#include "open-device.h"

namespace pagoda::cuda {

namespace {

PagodaStatus deviceInfo(PagodaDevice* device, PagodaDeviceInfo* info, PagodaError* error) {
  cudaDeviceProp properties;
  size_t available = 0, total = 0;
  if (const PagodaStatus status =
          check(cudaGetDeviceProperties(&properties, device->index), "cudaGetDeviceProperties", error))
    return status;
  if (const PagodaStatus status = check(cudaMemGetInfo(&available, &total), "cudaMemGetInfo", error)) return status;
  std::memset(info, 0, sizeof(*info));
  std::snprintf(info->name, sizeof(info->name), "%.95s", properties.name);
  std::snprintf(info->isa, sizeof(info->isa), "sm_%d%d", properties.major, properties.minor);
  info->totalMemory = total;
  info->availableMemory = available;
  return PAGODA_OK;
}

// What ops hold for themselves is given back before an allocation is given up.
PagodaStatus allocate(PagodaDevice* device, uint64_t bytes, void** address, PagodaError* error) {
  const uint64_t size = bytes == 0 ? 1 : bytes;
  cudaError_t result = cudaMalloc(address, size);
  if (result == cudaErrorMemoryAllocation) {
    releaseScratch(*device);
    trimPool(device->stream);
    result = cudaMalloc(address, size);
  }
  return check(result, "cudaMalloc", error);
}

void release(PagodaDevice* device, void* address) {
  makeCurrent(*device, nullptr);
  cudaFree(address);
  cudaGetLastError();
}

// Pageable host memory: the runtime has read the source when the call returns, as the contract asks.
PagodaStatus copyToDevice(PagodaDevice* device, void* to, const void* from, uint64_t bytes, PagodaError* error) {
  return check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, device->stream), "copyToDevice", error);
}

PagodaStatus copyToHost(PagodaDevice* device, void* to, const void* from, uint64_t bytes, PagodaError* error) {
  return check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, device->stream), "copyToHost", error);
}

PagodaStatus fill(PagodaDevice* device, void* to, uint8_t value, uint64_t bytes, PagodaError* error) {
  return check(cudaMemsetAsync(to, value, bytes, device->stream), "fill", error);
}

PagodaStatus synchronize(PagodaDevice* device, PagodaError* error) {
  return check(cudaStreamSynchronize(device->stream), "synchronize", error);
}

/// `kFunction` on whatever thread the host calls it.
template <auto kFunction>
struct OnDevice;

template <typename... Arguments, PagodaStatus (*kFunction)(PagodaDevice*, Arguments...)>
struct OnDevice<kFunction> {
  static PagodaStatus call(PagodaDevice* device, Arguments... arguments) {
    PagodaError* error = std::get<sizeof...(Arguments) - 1>(std::tie(arguments...));
    if (const PagodaStatus status = makeCurrent(*device, error)) return status;
    return kFunction(device, arguments...);
  }
};

template <auto kFunction>
constexpr auto onDevice = &OnDevice<kFunction>::call;

PagodaBackend makeTable() {
  PagodaBackend table = {};  // ops that are not set are missing, and a plan that needs them is refused
  table.abiVersion = PAGODA_ABI_VERSION;
  table.structSize = sizeof(PagodaBackend);
  table.name = "cuda";
  table.deviceCount = deviceCount;
  table.openDevice = openDevice;
  table.closeDevice = closeDevice;
  table.deviceInfo = onDevice<deviceInfo>;
  table.allocate = onDevice<allocate>;
  table.release = release;
  table.copyToDevice = onDevice<copyToDevice>;
  table.copyToHost = onDevice<copyToHost>;
  table.fill = onDevice<fill>;
  table.synchronize = onDevice<synchronize>;
  table.weightBytes = weightBytes;
  table.prepareWeight = onDevice<prepareWeight>;
  table.kvBlockBytes = kvBlockBytes;
  table.embed = onDevice<embed>;
  table.rmsNorm = onDevice<rmsNorm>;
  table.linear = onDevice<linear>;
  table.ropeTable = onDevice<ropeTable>;
  table.rope = onDevice<rope>;
  table.cacheWrite = onDevice<cacheWrite>;
  table.copyBlocks = onDevice<copyBlocks>;
  table.attention = onDevice<attention>;
  table.latentWrite = onDevice<latentWrite>;
  table.mlaAttention = onDevice<mlaAttention>;
  table.gatherKv = onDevice<gatherKv>;
  table.gatedActivation = onDevice<gatedActivation>;
  table.add = onDevice<add>;
  table.route = onDevice<route>;
  table.experts = onDevice<experts>;
  table.takeRows = onDevice<takeRows>;
  table.sample = onDevice<sample>;
  table.beginGraph = onDevice<beginGraph>;
  table.endGraph = onDevice<endGraph>;
  table.runGraph = onDevice<runGraph>;
  table.releaseGraph = releaseGraph;
  return table;
}

}  // namespace
}  // namespace pagoda::cuda

extern "C" __attribute__((visibility("default"))) PagodaStatus pagodaCudaOpen(int32_t device, void* stream,
                                                                              PagodaDevice** opened,
                                                                              PagodaError* error) {
  return pagoda::cuda::openSharedDevice(device, static_cast<cudaStream_t>(stream), opened, error);
}

extern "C" __attribute__((visibility("default"))) const PagodaBackend* pagodaBackend(void) {
  static const PagodaBackend table = pagoda::cuda::makeTable();
  return &table;
}
