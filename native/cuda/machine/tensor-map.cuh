// Descriptions of matrices in device memory for the copy engine (TMA), made on the host. The driver encodes them; its
// function comes through the runtime, so that nothing is linked with libcuda.
#pragma once

#include <cudaTypedefs.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace pagoda::cuda {

/// 128 bytes that a kernel gets by value, as part of a __grid_constant__ parameter.
using TensorMap = CUtensorMap;

/// A matrix of bf16, for `planes` = 1, or as many that lie between one another: element [row][plane][column] is at
/// row * rowBytes + plane * planeBytes + 2 * column. Bytes are multiples of 16, as is `base`.
struct Planes {
  const void* base;
  uint64_t columns, planes, rows;
  uint64_t planeBytes, rowBytes;
};

/// The driver's function that encodes them, NULL where it has none.
inline void* findTensorMapEncoder() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found;
  constexpr unsigned kVersion = 12000;  // of CUDA, that has it
  const cudaError_t error =
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, kVersion, cudaEnableDefault, &found);
  if (error != cudaSuccess) cudaGetLastError();  // the next call must not meet it again
  return error == cudaSuccess && found == cudaDriverEntryPointSuccess ? function : nullptr;
}

/// Boxes are `boxRows` rows of 64 columns of one plane, swizzled; zeros where they lie outside.
inline cudaError_t encodeTensorMap(void* encoder, TensorMap* map, const Planes& planes, uint32_t boxRows) {
  const cuuint64_t sizes[3] = {planes.columns, planes.planes, planes.rows};
  const cuuint64_t strides[2] = {planes.planeBytes, planes.rowBytes};
  const cuuint32_t box[3] = {64, 1, boxRows}, steps[3] = {1, 1, 1};
  const CUresult result = reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(encoder)(
      map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<void*>(planes.base), sizes, strides, box, steps,
      CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace pagoda::cuda
