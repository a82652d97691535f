// The CUDA plug-in: discovery, memory and copies. A machine without a driver or a GPU loads it and hears why it is
// unavailable.
#include <cstring>
#include <new>

#include "device.h"

namespace pagoda::cuda {

PagodaStatus fail(PagodaStatus status, const char* message, PagodaError* error) {
  std::snprintf(error->message, sizeof(error->message), "%s", message);
  return status;
}

PagodaStatus check(cudaError_t result, const char* what, PagodaError* error) {
  if (result == cudaSuccess) return PAGODA_OK;
  std::snprintf(error->message, sizeof(error->message), "%s: %s (%s)", what, cudaGetErrorString(result),
                cudaGetErrorName(result));
  switch (result) {
    case cudaErrorMemoryAllocation:
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

PagodaStatus openDevice(const PagodaDeviceOptions* options, PagodaDevice** device, PagodaError* error) {
  int32_t count = 0;
  if (const PagodaStatus status = deviceCount(&count, error)) return status;
  if (options->device < 0 || options->device >= count) return fail(PAGODA_UNAVAILABLE, "No such CUDA device", error);
  cudaDeviceProp properties;
  if (const PagodaStatus status =
          check(cudaGetDeviceProperties(&properties, options->device), "cudaGetDeviceProperties", error))
    return status;
  if (properties.major < kMinimumMajor)
    return fail(PAGODA_UNAVAILABLE, "The GPU is older than compute capability 8.0", error);
  if (const PagodaStatus status = check(cudaSetDevice(options->device), "cudaSetDevice", error)) return status;
  auto* opened = new (std::nothrow) PagodaDevice{options->device, nullptr};
  if (!opened) return fail(PAGODA_OUT_OF_MEMORY, "Out of host memory", error);
  const PagodaStatus status =
      check(cudaStreamCreateWithFlags(&opened->stream, cudaStreamNonBlocking), "cudaStreamCreate", error);
  if (status != PAGODA_OK) {
    delete opened;
    return status;
  }
  *device = opened;
  return PAGODA_OK;
}

void closeDevice(PagodaDevice* device) {
  if (!device) return;
  cudaStreamSynchronize(device->stream);
  cudaStreamDestroy(device->stream);
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
  std::snprintf(info->name, sizeof(info->name), "%s", properties.name);
  std::snprintf(info->isa, sizeof(info->isa), "sm_%d%d", properties.major, properties.minor);
  info->totalMemory = total;
  info->availableMemory = available;
  return PAGODA_OK;
}

PagodaStatus allocate(PagodaDevice*, uint64_t bytes, void** address, PagodaError* error) {
  return check(cudaMalloc(address, bytes == 0 ? 1 : bytes), "cudaMalloc", error);
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

bool isPlainVector(const PagodaWeight* weight) { return weight->kind == PAGODA_VECTOR && weight->dtype == PAGODA_F32; }

PagodaStatus weightBytes(PagodaDevice*, const PagodaWeight* weight, uint64_t* bytes, PagodaError* error) {
  if (!isPlainVector(weight)) return fail(PAGODA_UNSUPPORTED, "Only f32 vectors are supported yet", error);
  *bytes = static_cast<uint64_t>(weight->cols) * sizeof(float);
  return PAGODA_OK;
}

PagodaStatus prepareWeight(PagodaDevice* device, const PagodaWeight* weight, int32_t rowStart, int32_t rows,
                           const void* source, PagodaDtype sourceDtype, PagodaError* error) {
  if (!isPlainVector(weight) || sourceDtype != PAGODA_F32)
    return fail(PAGODA_UNSUPPORTED, "Only f32 vectors are supported yet", error);
  if (rowStart != 0 || rows != 1) return fail(PAGODA_INVALID, "A vector has one row", error);
  return copyToDevice(device, weight->data, source, static_cast<uint64_t>(weight->cols) * sizeof(float), error);
}

PagodaStatus kvBlockBytes(PagodaDevice*, const PagodaKvCache* cache, uint64_t* bytes, PagodaError* error) {
  if (cache->dtype != PAGODA_F32 && cache->dtype != PAGODA_BF16)
    return fail(PAGODA_UNSUPPORTED, "The CUDA backend keeps the KV cache as f32 or bf16", error);
  const uint64_t elementBytes = cache->dtype == PAGODA_F32 ? 4 : 2;
  *bytes = 2 * elementBytes * cache->blockSize * cache->numKvHeads * cache->headDim;
  return PAGODA_OK;
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
  table.rmsNorm = rmsNorm;
  return table;
}

}  // namespace

}  // namespace pagoda::cuda

extern "C" __attribute__((visibility("default"))) const PagodaBackend* pagodaBackend(void) {
  static const PagodaBackend table = pagoda::cuda::makeTable();
  return &table;
}
