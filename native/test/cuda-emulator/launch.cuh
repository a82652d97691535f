// The emulated twin of native/cuda/machine/launch.cuh.
#pragma once

#include <functional>

#include "cuda_runtime.h"

namespace pagoda::cuda {

struct LaunchShape {
  dim3 grid;
  dim3 block;
  size_t sharedBytes = 0;
  unsigned cluster = 1;
};

}  // namespace pagoda::cuda

namespace pagoda::emulator {

/// Runs a kernel, or records it where the stream is captured.
cudaError_t launch(cudaStream_t stream, const std::function<LaunchResult()>& kernel);

}  // namespace pagoda::emulator

namespace pagoda::cuda {

template <typename Parameters>
cudaError_t launch(void (*kernel)(Parameters), const LaunchShape& shape, cudaStream_t stream,
                   const Parameters& parameters) {
  struct Call {
    void (*kernel)(Parameters);
    Parameters parameters;
  };
  return emulator::launch(stream, [shape, call = Call{kernel, parameters}]() mutable {
    constexpr size_t kMaxSharedBytes = 227 * 1024;
    if (shape.sharedBytes > kMaxSharedBytes) return emulator::LaunchResult::invalidShape;
    const auto body = [](void* context) {
      const Call& call = *static_cast<Call*>(context);
      call.kernel(call.parameters);
    };
    return emulator::run({shape.grid, shape.block, shape.sharedBytes, shape.cluster}, body, &call);
  });
}

/// In two roundings: without hardware for it, the library's own is a hundred times slower.
inline float fmaf(float a, float b, float c) { return a * b + c; }

template <typename T>
T& sharedMemory() {
  return *static_cast<T*>(emulator::sharedMemory());
}

}  // namespace pagoda::cuda
