#include "device.h"

namespace pagoda::cuda {

PagodaStatus fail(PagodaStatus status, const char* message, PagodaError* error) {
  if (error) std::snprintf(error->message, sizeof(error->message), "%s", message);
  return status;
}

PagodaStatus check(cudaError_t result, const char* what, PagodaError* error) {
  if (result == cudaSuccess) return PAGODA_OK;
  cudaGetLastError();  // the next call must not meet it again, unless the context is lost
  if (error)
    std::snprintf(error->message, sizeof(error->message), "%s: %s (%s)", what, cudaGetErrorString(result),
                  cudaGetErrorName(result));
  return result == cudaErrorMemoryAllocation ? PAGODA_OUT_OF_MEMORY : PAGODA_FAILED;
}

void trimPool(cudaStream_t stream) {
  cudaStreamSynchronize(stream);
  int index = 0;
  cudaMemPool_t pool = nullptr;
  if (cudaGetDevice(&index) == cudaSuccess && cudaDeviceGetDefaultMemPool(&pool, index) == cudaSuccess)
    cudaMemPoolTrimTo(pool, 0);
  cudaGetLastError();
}

static bool isRecording(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  return cudaStreamIsCapturing(stream, &status) == cudaSuccess && status != cudaStreamCaptureStatusNone;
}

PagodaStatus Scratch::reserve(cudaStream_t stream, uint64_t bytes, void** address, PagodaError* error) {
  if (bytes > bytes_) {
    if (isRecording(stream))
      return fail(PAGODA_OUT_OF_MEMORY, "What an op needs for itself cannot grow while a graph is recorded", error);
    release(stream);
    uint64_t size = bytes + bytes / 4;
    cudaError_t result = cudaMallocAsync(&memory_, size, stream);
    if (result == cudaErrorMemoryAllocation) {
      trimPool(stream);
      size = bytes;
      result = cudaMallocAsync(&memory_, size, stream);
    }
    if (const PagodaStatus status = check(result, "scratch memory", error)) {
      memory_ = nullptr;
      return status;
    }
    bytes_ = size;
  }
  *address = memory_;
  return PAGODA_OK;
}

void Scratch::release(cudaStream_t stream) {
  if (memory_) cudaFreeAsync(memory_, stream);
  moves_ += 1;
  memory_ = nullptr;
  bytes_ = 0;
}

}  // namespace pagoda::cuda
