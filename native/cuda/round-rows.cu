// Activations as the tensor cores read them: bf16. A kernel of its own, because the tiles of a product share rows: each
// is rounded once, and the copies to shared memory move half the bytes.
#include "product.cuh"

namespace pagoda::cuda {
namespace {

constexpr int kGroup = 4;  // columns of a head that a thread rounds at once

struct Parameters {
  RoundedRows rows;
  bool isAligned;  // groups of x to 16 bytes
};

/// The group from `column` on of a head's `inputs` columns, zeros behind them.
__device__ __forceinline__ float4 loadGroup(const float* x, int column, int inputs, bool isAligned) {
  if (isAligned && column + kGroup <= inputs) return *reinterpret_cast<const float4*>(x + column);
  float values[kGroup];
#pragma unroll
  for (int i = 0; i < kGroup; ++i) values[i] = column + i < inputs ? x[column + i] : 0.0f;
  return make_float4(values[0], values[1], values[2], values[3]);
}

__global__ void __launch_bounds__(kRowThreads) roundKernel(const Parameters p) {
  const RoundedRows& r = p.rows;
  const int64_t row = r.rowOfSlot == nullptr ? blockIdx.x : r.rowOfSlot[blockIdx.x];
  const int stride = static_cast<int>(r.headStride), width = stride * r.heads;
  const float* x = r.x + row * r.xStride;
  uint16_t* out = r.out + static_cast<int64_t>(blockIdx.x) * width;
  forColumns(width / kGroup, [&](int group) {
    const int column = kGroup * group, head = r.heads == 1 ? 0 : column / stride;
    const float4 values = loadGroup(x + head * r.inputs, column - head * stride, r.inputs, p.isAligned);
    *reinterpret_cast<uint2*>(out + column) = uint2{packBf16(values.x, values.y), packBf16(values.z, values.w)};
  });
  if (blockIdx.x == 0 && blockIdx.y == 0)
    for (int i = threadIdx.x; i < r.numCounters; i += kRowThreads) r.counters[i] = 0;
}

}  // namespace

PagodaStatus roundRows(PagodaDevice* device, const RoundedRows& rows, int32_t count, const char* name,
                       PagodaError* error) {
  const bool isAligned = reinterpret_cast<uintptr_t>(rows.x) % sizeof(float4) == 0 && rows.xStride % kGroup == 0 &&
                         (rows.heads == 1 || rows.inputs % kGroup == 0);
  const Parameters p = {rows, isAligned};
  const auto groups = static_cast<int32_t>(rows.headStride * rows.heads / kGroup);
  return launchRows(device, roundKernel, p, count, groups, name, error);
}

}  // namespace pagoda::cuda
