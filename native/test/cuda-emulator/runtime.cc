// Memory and errors of the emulated runtime. Two devices that differ in what they claim to be; streams do nothing,
// since all is done when a call returns.
#include <cstdlib>

#include "cuda_runtime.h"
#include "launch.cuh"

namespace {

constexpr int kMajors[] = {9, 8};  // compute capability of each device
constexpr int kDevices = 2;
constexpr size_t kTotalMemory = size_t{8} << 30;

thread_local cudaError_t lastError = cudaSuccess;

cudaError_t note(cudaError_t error) {
  if (error != cudaSuccess) lastError = error;
  return error;
}

}  // namespace

namespace pagoda::emulator {

cudaError_t finishLaunch(LaunchResult result) {
  switch (result) {
    case LaunchResult::ok:
      return cudaSuccess;
    case LaunchResult::invalidShape:
      return note(cudaErrorInvalidConfiguration);
    case LaunchResult::deadlock:
      return note(cudaErrorLaunchFailure);
  }
  return cudaErrorLaunchFailure;
}

}  // namespace pagoda::emulator

const char* cudaGetErrorString(cudaError_t error) { return error == cudaSuccess ? "no error" : "emulated error"; }

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure: threads wait for others that do not come";
    default:
      return "another error";
  }
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = kDevices;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device < 0 || device >= kDevices) return note(cudaErrorInvalidDevice);
  *properties = {"CUDA emulator on the CPU", kMajors[device], 0, 2, 227 * 1024};
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  return device >= 0 && device < kDevices ? cudaSuccess : note(cudaErrorInvalidDevice);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = nullptr;
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }

cudaError_t cudaMemGetInfo(size_t* available, size_t* total) {
  *available = *total = kTotalMemory;
  return cudaSuccess;
}

// Full of NaN, so that what was never written shows.
cudaError_t cudaMalloc(void** address, size_t bytes) {
  constexpr size_t kAlignment = 256;
  if (bytes > kTotalMemory || posix_memalign(address, kAlignment, bytes) != 0) return note(cudaErrorMemoryAllocation);
  std::memset(*address, 0xff, bytes);
  return cudaSuccess;
}

cudaError_t cudaFree(void* address) {
  std::free(address);
  return cudaSuccess;
}

cudaError_t cudaMallocAsync(void** address, size_t bytes, cudaStream_t) { return cudaMalloc(address, bytes); }
cudaError_t cudaFreeAsync(void* address, cudaStream_t) { return cudaFree(address); }

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  std::memmove(to, from, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}

cudaError_t cudaGetLastError() {
  const cudaError_t error = lastError;
  lastError = cudaSuccess;
  return error;
}

cudaError_t cudaPeekAtLastError() { return lastError; }
