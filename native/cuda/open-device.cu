#include <cstdarg>
#include <launch.cuh>
#include <mutex>
#include <new>
#include <tensor-map.cuh>

#include "open-device.h"

namespace pagoda::cuda {
namespace {

constexpr int kOldestMajor = 8;  // sm_80 is the oldest architecture in the fat binary
constexpr int kHopperMajor = 9;  // wgmma and setmaxnreg are those of 9.0 alone
constexpr int kMostGpus = 128;

struct Probe {};

/// Stands for all kernels when it is asked whether the fat binary has code for a GPU.
__global__ void probeKernel(const Probe) {}

__attribute__((format(printf, 2, 3))) PagodaStatus unavailable(PagodaError* error, const char* format, ...) {
  cudaGetLastError();  // the next call must not meet it again
  if (error == nullptr) return PAGODA_UNAVAILABLE;
  va_list values;
  va_start(values, format);
  std::vsnprintf(error->message, sizeof(error->message), format, values);
  va_end(values);
  return PAGODA_UNAVAILABLE;
}

/// CUDA writes version 12.4 as 12040.
constexpr int majorOf(int version) { return version / 1000; }
constexpr int minorOf(int version) { return version % 1000 / 10; }

PagodaStatus noDevices(cudaError_t result, PagodaError* error) {
  int driver = 0, needed = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&needed);
  if (driver == 0) return unavailable(error, "No NVIDIA driver is installed (libcuda.so.1)");
  if (result == cudaErrorInsufficientDriver)
    return unavailable(error, "The NVIDIA driver is too old: it supports CUDA %d.%d, and CUDA %d.%d is needed",
                       majorOf(driver), minorOf(driver), majorOf(needed), minorOf(needed));
  if (result == cudaErrorNoDevice)
    return unavailable(error, "The NVIDIA driver finds no GPU (CUDA_VISIBLE_DEVICES may hide it)");
  return unavailable(error, "CUDA cannot be used: %s (%s)", cudaGetErrorString(result), cudaGetErrorName(result));
}

PagodaStatus countGpus(int* count, PagodaError* error) {
  const cudaError_t result = cudaGetDeviceCount(count);
  if (result == cudaSuccess && *count > 0) return PAGODA_OK;
  *count = 0;
  return noDevices(result == cudaSuccess ? cudaErrorNoDevice : result, error);
}

PagodaStatus checkCapability(int index, PagodaError* error) {
  int major = 0, minor = 0;
  cudaError_t result = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index);
  if (result == cudaSuccess) result = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index);
  if (result != cudaSuccess)
    return unavailable(error, "GPU %d cannot be used: %s (%s)", index, cudaGetErrorString(result),
                       cudaGetErrorName(result));
  if (major >= kOldestMajor) return PAGODA_OK;
  return unavailable(error, "GPU %d has compute capability %d.%d, and %d.0 is needed", index, major, minor,
                     kOldestMajor);
}

/// Makes the context, which finds out what the numbers of the GPU do not tell.
PagodaStatus fillDevice(PagodaDevice& device, int index, PagodaError* error) {
  cudaDeviceProp properties = {};
  cudaFuncAttributes attributes;
  cudaError_t result = cudaSetDevice(index);
  if (result == cudaSuccess) result = cudaGetDeviceProperties(&properties, index);
  if (result == cudaSuccess) result = cudaFuncGetAttributes(&attributes, probeKernel);
  if (result == cudaErrorNoKernelImageForDevice || result == cudaErrorUnsupportedPtxVersion)
    return unavailable(error, "The plug-in has no code for GPU %d, of compute capability %d.%d", index,
                       properties.major, properties.minor);
  if (result == cudaSuccess) result = cudaDeviceSynchronize();
  if (result != cudaSuccess)
    return unavailable(error,
                       "GPU %d cannot be used: %s (%s). After an error of the GPU in this process, close all engines "
                       "on it or restart the process",
                       index, cudaGetErrorString(result), cudaGetErrorName(result));
  device.index = index;
  device.multiprocessors = properties.multiProcessorCount;
  device.sharedBytes = properties.sharedMemPerBlockOptin;
  if (properties.major == kHopperMajor && properties.minor == 0) device.tensorMapEncoder = findTensorMapEncoder();
  return PAGODA_OK;
}

PagodaStatus makeDevice(int32_t index, PagodaDevice** made, PagodaError* error) {
  *made = nullptr;
  int count = 0;
  if (const PagodaStatus status = countGpus(&count, error)) return status;
  if (index < 0 || index >= count || index >= kMostGpus)
    return unavailable(error, "There is no GPU %d: the number of GPUs is %d", index, count);
  if (const PagodaStatus status = checkCapability(index, error)) return status;
  auto* device = new (std::nothrow) PagodaDevice;
  if (!device) return fail(PAGODA_OUT_OF_MEMORY, "Out of host memory", error);
  if (const PagodaStatus status = fillDevice(*device, index, error)) {
    delete device;
    return status;
  }
  *made = device;
  return PAGODA_OK;
}

/// The runtime has one context a GPU for the whole process, and so the number of devices that use it is known for the
/// whole process: the only state here that no device owns.
struct Contexts {
  std::mutex mutex;  // held while a context is made or given up
  int devices[kMostGpus] = {};
};

Contexts& contexts() {
  static Contexts instance;
  return instance;
}

}  // namespace

PagodaStatus deviceCount(int32_t* count, PagodaError* error) {
  *count = 0;
  int found = 0;
  if (const PagodaStatus status = countGpus(&found, error)) return status;
  for (int index = found - 1; index >= 0; --index)  // ends with the reason of the first one, where all have one
    if (checkCapability(index, error) == PAGODA_OK) *count = found;
  return *count > 0 ? PAGODA_OK : PAGODA_UNAVAILABLE;
}

PagodaStatus openDevice(const PagodaDeviceOptions* options, PagodaDevice** device, PagodaError* error) {
  const std::lock_guard<std::mutex> lock(contexts().mutex);
  if (const PagodaStatus status = makeDevice(options->device, device, error)) return status;
  const cudaError_t result = cudaStreamCreateWithFlags(&(*device)->stream, cudaStreamNonBlocking);
  if (const PagodaStatus status = check(result, "cudaStreamCreate", error)) {
    delete *device;
    *device = nullptr;
    return status;
  }
  (*device)->ownsStream = true;
  contexts().devices[(*device)->index] += 1;
  return PAGODA_OK;
}

PagodaStatus openSharedDevice(int32_t index, cudaStream_t stream, PagodaDevice** device, PagodaError* error) {
  const std::lock_guard<std::mutex> lock(contexts().mutex);
  if (const PagodaStatus status = makeDevice(index, device, error)) return status;
  (*device)->stream = stream;
  contexts().devices[index] += 1;
  return PAGODA_OK;
}

// A context that an error has made useless stays so until nobody uses it. One that is shared is its owner's.
void closeDevice(PagodaDevice* device) {
  if (!device) return;
  const std::lock_guard<std::mutex> lock(contexts().mutex);
  makeCurrent(*device, nullptr);
  releaseScratch(*device);
  const bool isLost = cudaStreamSynchronize(device->stream) != cudaSuccess;
  if (device->ownsStream) cudaStreamDestroy(device->stream);
  const bool isLast = --contexts().devices[device->index] == 0;
  if (isLost && isLast && device->ownsStream) cudaDeviceReset();
  cudaGetLastError();
  delete device;
}

PagodaStatus makeCurrent(const PagodaDevice& device, PagodaError* error) {
  return check(cudaSetDevice(device.index), "cudaSetDevice", error);
}

void releaseScratch(PagodaDevice& device) {
  device.scratch.release(device.stream);
  device.rounded.release(device.stream);
  device.latents.release(device.stream);
}

}  // namespace pagoda::cuda
