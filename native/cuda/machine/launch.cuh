// How a kernel is launched and finds its shared memory. The tests have a twin of this file that runs kernels on the CPU
// (native/test/cuda-emulator), so all sources launch through here.
#pragma once

#include <cuda_runtime.h>

namespace pagoda::cuda {

struct LaunchShape {
  dim3 grid;
  dim3 block;  // a multiple of 32 threads
  size_t sharedBytes = 0;
  unsigned cluster = 1;  // blocks beside each other in x, which divides the grid's
};

/// Queues `kernel(parameters)`. Errors of earlier work may come back from here.
template <typename Parameters>
cudaError_t launch(void (*kernel)(Parameters), const LaunchShape& shape, cudaStream_t stream,
                   const Parameters& parameters) {
  constexpr size_t kSharedBytesWithoutAsking = 48 * 1024;
  if (shape.sharedBytes > kSharedBytesWithoutAsking) {
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shape.sharedBytes));
    if (error != cudaSuccess) return error;
  }
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {shape.cluster, 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.sharedBytes;
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = shape.cluster > 1 ? 1 : 0;
  if (const cudaError_t error = cudaLaunchKernelEx(&config, kernel, parameters)) return error;
  return cudaGetLastError();
}

/// The block's dynamic shared memory; it holds nothing at the start. Aligned to 1024 bytes.
template <typename T>
__device__ __forceinline__ T& sharedMemory() {
  extern __shared__ __align__(1024) unsigned char bytes[];
  return *reinterpret_cast<T*>(bytes);
}

}  // namespace pagoda::cuda
