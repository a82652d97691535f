// What kernels share: rows of tensors, sums and maxima over a warp or a block, and how an op that works row by row is
// run.
#pragma once

#include <launch.cuh>
#include <ptx.cuh>

#include "device.h"

namespace pagoda::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr float kInfinity = __builtin_huge_valf();

__host__ __device__ constexpr int64_t ceilDivide(int64_t a, int64_t b) { return (a + b - 1) / b; }
__host__ __device__ constexpr int64_t roundUp(int64_t a, int64_t b) { return ceilDivide(a, b) * b; }

__device__ __forceinline__ float* rowOf(const PagodaTensor& tensor, int64_t row) {
  return static_cast<float*>(tensor.data) + row * tensor.rowStride;
}

__device__ __forceinline__ const float* vectorOf(const PagodaWeight& vector) {
  return static_cast<const float*>(vector.data);
}

__device__ __forceinline__ int laneOf() { return threadIdx.x % kWarp; }
__device__ __forceinline__ int warpOf() { return threadIdx.x / kWarp; }

// ---- reductions: the order depends on nothing but the lane, and every lane gets the same bits
// --------------------------

template <typename T, typename Combine>
__device__ __forceinline__ T warpReduce(T value, Combine combine) {
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) value = combine(value, __shfl_xor_sync(kAllLanes, value, lanes));
  return value;
}

template <typename T>
__device__ __forceinline__ T warpSum(T value) {
  return warpReduce(value, [](T a, T b) { return a + b; });
}

__device__ __forceinline__ float warpMax(float value) {
  return warpReduce(value, [](float a, float b) { return fmaxf(a, b); });
}

/// `partial` is shared memory for one value a warp. All threads of the block take part and may use it again afterwards.
template <typename T, typename Combine>
__device__ T blockReduce(T value, T* partial, Combine combine) {
  value = warpReduce(value, combine);
  if (laneOf() == 0) partial[warpOf()] = value;
  __syncthreads();
  T result = partial[0];
  for (int warp = 1; warp < static_cast<int>(blockDim.x) / kWarp; ++warp) result = combine(result, partial[warp]);
  __syncthreads();
  return result;
}

// ---- ops that work on rows
// ----------------------------------------------------------------------------------------------

inline bool isF32(const PagodaTensor& tensor) { return tensor.dtype == PAGODA_F32; }

/// PAGODA_UNSUPPORTED unless all activations are f32.
template <typename... Tensors>
PagodaStatus requireF32(PagodaError* error, const Tensors&... tensors) {
  if ((isF32(tensors) && ...)) return PAGODA_OK;
  return fail(PAGODA_UNSUPPORTED, "The CUDA backend takes f32 activations only", error);
}

constexpr int kRowThreads = 256;
constexpr int kColumnsPerBlock = 4 * kRowThreads;

/// Runs `kernel(op)` with a grid of rows by stretches of kColumnsPerBlock columns; see forColumns.
template <typename Op>
PagodaStatus launchRows(PagodaDevice* device, void (*kernel)(Op), const Op& op, int32_t rows, int32_t width,
                        const char* name, PagodaError* error) {
  if (rows == 0) return PAGODA_OK;
  const auto stretches = static_cast<unsigned>(ceilDivide(width, kColumnsPerBlock));
  const LaunchShape shape = {dim3(rows, stretches < 65535 ? stretches : 65535), dim3(kRowThreads)};
  return check(launch(kernel, shape, device->stream, op), name, error);
}

/// Calls body(column) for this thread's columns of the block's row.
template <typename Body>
__device__ __forceinline__ void forColumns(int width, Body body) {
  for (int64_t start = static_cast<int64_t>(blockIdx.y) * kColumnsPerBlock; start < width;
       start += static_cast<int64_t>(gridDim.y) * kColumnsPerBlock) {
    for (int i = threadIdx.x; i < kColumnsPerBlock && start + i < width; i += kRowThreads)
      body(static_cast<int>(start) + i);
  }
}

}  // namespace pagoda::cuda
