// The emulated twin of native/cuda/machine/tensor-map.cuh: a map is what it describes.
#pragma once

#include <cstdint>

#include "cuda_runtime.h"

namespace pagoda::emulator {

/// NULL where the driver does not know tensor maps (setup.h).
void* findTensorMapEncoder();

}  // namespace pagoda::emulator

namespace pagoda::cuda {

struct Planes {
  const void* base;
  uint64_t columns, planes, rows;
  uint64_t planeBytes, rowBytes;
};

struct TensorMap {
  Planes planes;
  uint32_t boxRows;
};

inline void* findTensorMapEncoder() { return emulator::findTensorMapEncoder(); }

/// Refuses what the driver refuses.
inline cudaError_t encodeTensorMap(void*, TensorMap* map, const Planes& planes, uint32_t boxRows) {
  constexpr uint64_t kAlignment = 16, kMaxSize = uint64_t{1} << 32, kMaxStride = uint64_t{1} << 40;
  for (const uint64_t size : {planes.columns, planes.planes, planes.rows})
    if (size == 0 || size > kMaxSize) return cudaErrorInvalidValue;
  for (const uint64_t stride : {planes.planeBytes, planes.rowBytes})
    if (stride == 0 || stride % kAlignment != 0 || stride >= kMaxStride) return cudaErrorInvalidValue;
  if (planes.rowBytes % planes.planeBytes != 0) return cudaErrorInvalidValue;
  if (reinterpret_cast<uintptr_t>(planes.base) % kAlignment != 0 || boxRows == 0 || boxRows > 256)
    return cudaErrorInvalidValue;
  *map = {planes, boxRows};
  return cudaSuccess;
}

}  // namespace pagoda::cuda
