// The emulated twin of native/cuda/machine/launch.cuh.
#pragma once

#include <tuple>

#include "cuda_runtime.h"

namespace pagoda::cuda {

struct LaunchShape {
  dim3 grid;
  dim3 block;
  size_t sharedBytes = 0;
};

}  // namespace pagoda::cuda

namespace pagoda::emulator {

/// What a launch meets before it begins. `runs`: whether the kernel is to run; a fault may have taken its place.
cudaError_t beginLaunch(cudaStream_t stream, bool* runs);
cudaError_t finishLaunch(LaunchResult result);

}  // namespace pagoda::emulator

namespace pagoda::cuda {

template <typename Parameters>
cudaError_t launch(void (*kernel)(Parameters), const LaunchShape& shape, cudaStream_t stream,
                   const Parameters& parameters) {
  constexpr size_t kMaxSharedBytes = 227 * 1024;
  bool runs = false;
  if (const cudaError_t error = emulator::beginLaunch(stream, &runs); error != cudaSuccess || !runs) return error;
  if (shape.sharedBytes > kMaxSharedBytes) return emulator::finishLaunch(emulator::LaunchResult::invalidShape);
  struct Call {
    void (*kernel)(Parameters);
    const Parameters* parameters;
  } call = {kernel, &parameters};
  const auto body = [](void* context) {
    const Call& call = *static_cast<Call*>(context);
    call.kernel(*call.parameters);
  };
  return emulator::finishLaunch(emulator::run({shape.grid, shape.block, shape.sharedBytes}, body, &call));
}

/// In two roundings: without hardware for it, the library's own is a hundred times slower.
inline float fmaf(float a, float b, float c) { return a * b + c; }

template <typename T>
T& sharedMemory() {
  return *static_cast<T*>(emulator::sharedMemory());
}

}  // namespace pagoda::cuda
