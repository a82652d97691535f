// The CUDA plug-in: discovery, memory, copies, and the table of ops. A machine without a driver or a GPU loads it and
// hears why it is unavailable.
#include <cstring>
#include <new>

#include "capi.h"
#include "device.h"

namespace pagoda::cuda {

PagodaStatus fail(PagodaStatus status, const char* message, PagodaError* error) {
  if (error) std::snprintf(error->message, sizeof(error->message), "%s", message);
  return status;
}

PagodaStatus check(cudaError_t result, const char* what, PagodaError* error) {
  if (result == cudaSuccess) return PAGODA_OK;
  if (error)
    std::snprintf(error->message, sizeof(error->message), "%s: %s (%s)", what, cudaGetErrorString(result),
                  cudaGetErrorName(result));
  switch (result) {
    case cudaErrorMemoryAllocation:
      cudaGetLastError();  // it is not sticky: the next call must not meet it again
      return PAGODA_OUT_OF_MEMORY;
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorInitializationError:
    case cudaErrorSystemDriverMismatch:
      return PAGODA_UNAVAILABLE;
    default:
      return PAGODA_FAILED;
  }
}

PagodaStatus Scratch::reserve(cudaStream_t stream, uint64_t bytes, void** address, PagodaError* error) {
  if (bytes > bytes_) {
    release(stream);
    const uint64_t grown = bytes + bytes / 4;
    const PagodaStatus status = check(cudaMallocAsync(&memory_, grown, stream), "scratch memory", error);
    if (status != PAGODA_OK) {
      memory_ = nullptr;
      return status;
    }
    bytes_ = grown;
  }
  *address = memory_;
  return PAGODA_OK;
}

void Scratch::release(cudaStream_t stream) {
  if (memory_) cudaFreeAsync(memory_, stream);
  memory_ = nullptr;
  bytes_ = 0;
}

namespace {

constexpr int kMinimumMajor = 8;  // sm_80: the oldest architecture in the fat binary

PagodaStatus deviceCount(int32_t* count, PagodaError* error) {
  *count = 0;
  int found = 0;
  const cudaError_t result = cudaGetDeviceCount(&found);
  if (result != cudaSuccess) {
    check(result, "No usable CUDA device", error);
    return PAGODA_UNAVAILABLE;
  }
  if (found == 0) return fail(PAGODA_UNAVAILABLE, "No CUDA device", error);
  *count = found;
  return PAGODA_OK;
}

/// A device that can be used, without a stream.
PagodaStatus makeDevice(int32_t index, PagodaDevice** device, PagodaError* error) {
  *device = nullptr;
  int32_t count = 0;
  if (const PagodaStatus status = deviceCount(&count, error)) return status;
  if (index < 0 || index >= count) return fail(PAGODA_UNAVAILABLE, "No such CUDA device", error);
  cudaDeviceProp properties;
  if (const PagodaStatus status = check(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties", error))
    return status;
  if (properties.major < kMinimumMajor)
    return fail(PAGODA_UNAVAILABLE, "The GPU is older than compute capability 8.0", error);
  if (const PagodaStatus status = check(cudaSetDevice(index), "cudaSetDevice", error)) return status;
  *device = new (std::nothrow) PagodaDevice;
  if (!*device) return fail(PAGODA_OUT_OF_MEMORY, "Out of host memory", error);
  (*device)->index = index;
  (*device)->multiprocessors = properties.multiProcessorCount;
  (*device)->capability = 10 * properties.major + properties.minor;
  (*device)->sharedBytes = properties.sharedMemPerBlockOptin;
  return PAGODA_OK;
}

PagodaStatus openDevice(const PagodaDeviceOptions* options, PagodaDevice** device, PagodaError* error) {
  if (const PagodaStatus status = makeDevice(options->device, device, error)) return status;
  const PagodaStatus status =
      check(cudaStreamCreateWithFlags(&(*device)->stream, cudaStreamNonBlocking), "cudaStreamCreate", error);
  if (status != PAGODA_OK) {
    delete *device;
    *device = nullptr;
    return status;
  }
  (*device)->ownsStream = true;
  return PAGODA_OK;
}

void releaseScratch(PagodaDevice* device) {
  device->scratch.release(device->stream);
  device->rounded.release(device->stream);
  device->latents.release(device->stream);
}

void closeDevice(PagodaDevice* device) {
  if (!device) return;
  releaseScratch(device);
  cudaStreamSynchronize(device->stream);
  if (device->ownsStream) cudaStreamDestroy(device->stream);
  delete device;
}

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
  if (cudaMalloc(address, size) == cudaSuccess) return PAGODA_OK;
  cudaGetLastError();
  releaseScratch(device);
  cudaStreamSynchronize(device->stream);
  return check(cudaMalloc(address, size), "cudaMalloc", error);
}

void release(PagodaDevice*, void* address) { cudaFree(address); }

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

PagodaBackend makeTable() {
  PagodaBackend table = {};  // ops that are not set are missing, and a plan that needs them is refused
  table.abiVersion = PAGODA_ABI_VERSION;
  table.structSize = sizeof(PagodaBackend);
  table.name = "cuda";
  table.deviceCount = deviceCount;
  table.openDevice = openDevice;
  table.closeDevice = closeDevice;
  table.deviceInfo = deviceInfo;
  table.allocate = allocate;
  table.release = release;
  table.copyToDevice = copyToDevice;
  table.copyToHost = copyToHost;
  table.fill = fill;
  table.synchronize = synchronize;
  table.weightBytes = weightBytes;
  table.prepareWeight = prepareWeight;
  table.kvBlockBytes = kvBlockBytes;
  table.embed = embed;
  table.rmsNorm = rmsNorm;
  table.linear = linear;
  table.ropeTable = ropeTable;
  table.rope = rope;
  table.cacheWrite = cacheWrite;
  table.copyBlocks = copyBlocks;
  table.attention = attention;
  table.latentWrite = latentWrite;
  table.mlaAttention = mlaAttention;
  table.gatherKv = gatherKv;
  table.gatedActivation = gatedActivation;
  table.add = add;
  table.route = route;
  table.experts = experts;
  table.takeRows = takeRows;
  table.sample = sample;
  return table;
}

}  // namespace
}  // namespace pagoda::cuda

extern "C" __attribute__((visibility("default"))) PagodaStatus pagodaCudaOpen(int32_t device, void* stream,
                                                                              PagodaDevice** opened,
                                                                              PagodaError* error) {
  if (const PagodaStatus status = pagoda::cuda::makeDevice(device, opened, error)) return status;
  (*opened)->stream = static_cast<cudaStream_t>(stream);
  return PAGODA_OK;
}

extern "C" __attribute__((visibility("default"))) const PagodaBackend* pagodaBackend(void) {
  static const PagodaBackend table = pagoda::cuda::makeTable();
  return &table;
}
