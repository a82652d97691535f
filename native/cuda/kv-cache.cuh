// Where a token's K and V lie. A block holds the K of all heads, then their V, each [head][token][headDim]; of an int8
// cache, the scales of both follow, f32 [head][token]. A latent cache has rows [token][headDim] alone, and two scales a
// token, of the latent and of the rope key. Every part is padded to 16 bytes.
#pragma once

#include <type_traits>

#include "kernel.cuh"

namespace pagoda::cuda {

__host__ __device__ constexpr int64_t kvElementBytes(PagodaDtype dtype) {
  return dtype == PAGODA_F32 ? 4 : dtype == PAGODA_BF16 ? 2 : 1;
}

/// Bytes of the parts of one block, from the fields of a cache.
struct KvLayout {
  int64_t part;    // K of all heads, or V; of a latent cache its rows
  int64_t scales;  // of one part
  int64_t block;
  int parts;

  __host__ __device__ explicit KvLayout(const PagodaKvCache& cache) {
    const bool isLatent = cache.latentDim > 0;
    const int64_t vectors = static_cast<int64_t>(cache.blockSize) * cache.numKvHeads;
    parts = isLatent ? 1 : 2;
    part = roundUp(vectors * cache.headDim * kvElementBytes(cache.dtype), 16);
    scales = cache.dtype == PAGODA_INT8 ? roundUp(vectors * (isLatent ? 2 : 1) * sizeof(float), 16) : 0;
    block = parts * (part + scales);
  }
};

/// A vector of K or V (part 0 or 1) as it is stored. int8: element i counts scales[i < split ? 0 : 1].
struct KvVector {
  uint8_t* data;
  float* scales;
};

__device__ __forceinline__ KvVector kvVector(const PagodaKvCache& cache, const KvLayout& layout, int64_t slot, int part,
                                             int head) {
  const int64_t block = slot / cache.blockSize, offset = slot % cache.blockSize;
  uint8_t* base = static_cast<uint8_t*>(cache.data) + block * layout.block;
  const int64_t vector = static_cast<int64_t>(head) * cache.blockSize + offset;
  auto* scales = reinterpret_cast<float*>(base + layout.parts * layout.part + part * layout.scales);
  return {base + part * layout.part + vector * cache.headDim * kvElementBytes(cache.dtype),
          scales + vector * (cache.latentDim > 0 ? 2 : 1)};
}

/// Element i of a vector, which has the scale `scale` if it is of int8.
template <PagodaDtype kDtype>
__device__ __forceinline__ float kvElement(const KvVector& vector, int i, float scale) {
  if constexpr (kDtype == PAGODA_F32) return reinterpret_cast<const float*>(vector.data)[i];
  if constexpr (kDtype == PAGODA_BF16)
    return __uint_as_float(static_cast<uint32_t>(reinterpret_cast<const uint16_t*>(vector.data)[i]) << 16);
  return static_cast<float>(reinterpret_cast<const int8_t*>(vector.data)[i]) * scale;
}

template <PagodaDtype kDtype>
__device__ __forceinline__ float kvScale(const KvVector& vector, int part = 0) {
  if constexpr (kDtype == PAGODA_INT8) return vector.scales[part];
  return 1.0f;
}

/// The slot of a position, read through a row of the block table.
__device__ __forceinline__ int64_t slotOf(const int32_t* blocks, int32_t position, int32_t blockSize) {
  return static_cast<int64_t>(blocks[position / blockSize]) * blockSize + position % blockSize;
}

/// A warp writes `width` elements from x[0] on; an int8 part has the scale max |x| / 127. A NaN or infinity makes all
/// of such a part NaN.
template <PagodaDtype kDtype>
__device__ void writeVector(uint8_t* to, float* scale, const float* x, int width) {
  if constexpr (kDtype == PAGODA_F32) {
    for (int i = laneOf(); i < width; i += kWarp) reinterpret_cast<float*>(to)[i] = x[i];
  } else if constexpr (kDtype == PAGODA_BF16) {
    for (int i = laneOf(); i < width; i += kWarp) reinterpret_cast<uint16_t*>(to)[i] = toBf16(x[i]);
  } else {
    uint32_t largest = 0;  // as bits, which order magnitudes and put NaN above all
    for (int i = laneOf(); i < width; i += kWarp) largest = max(largest, __float_as_uint(x[i]) & 0x7fffffffu);
    largest = warpReduce(largest, [](uint32_t a, uint32_t b) { return max(a, b); });
    const float unit = __uint_as_float(largest) / 127.0f;
    const bool isFinite = unit < kInfinity;
    for (int i = laneOf(); i < width; i += kWarp) {
      const float code = isFinite && unit > 0.0f ? rintf(fminf(127.0f, fmaxf(-127.0f, x[i] / unit))) : 0.0f;
      reinterpret_cast<int8_t*>(to)[i] = static_cast<int8_t>(code);
    }
    if (laneOf() == 0) *scale = isFinite ? unit : __uint_as_float(0x7fc00000u);
  }
}

/// Calls visit(std::integral_constant of the cache's dtype).
template <typename Visit>
auto withKvDtype(PagodaDtype dtype, Visit visit) {
  switch (dtype) {
    case PAGODA_BF16:
      return visit(std::integral_constant<PagodaDtype, PAGODA_BF16>());
    case PAGODA_INT8:
      return visit(std::integral_constant<PagodaDtype, PAGODA_INT8>());
    default:
      return visit(std::integral_constant<PagodaDtype, PAGODA_F32>());
  }
}

/// The request that row `row` of a batch belongs to.
__device__ __forceinline__ int requestOf(const PagodaBatch& batch, int row) {
  int low = 0, high = batch.numRequests;  // queryStartLoc[low] <= row < queryStartLoc[high]
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (batch.queryStartLoc[middle] <= row ? low : high) = middle;
  }
  return low;
}

}  // namespace pagoda::cuda
