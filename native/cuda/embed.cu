// out[t] = table[tokenIds[t]] * scale
#include "dequantize.cuh"

namespace pagoda::cuda {
namespace {

/// A thread takes a group of columns.
template <PagodaDtype kDtype>
__global__ void embedKernel(const PagodaEmbed op) {
  constexpr int kColumns = kCodecColumns;
  const int64_t token = op.tokenIds[blockIdx.x];
  const uint8_t* row =
      static_cast<const uint8_t*>(op.table.data) + token * weightRowBytes(op.table.dtype, op.table.cols);
  float* out = rowOf(op.out, blockIdx.x);
  forColumns(static_cast<int>(ceilDivide(op.out.width, kColumns)), [&](int group) {
    float values[kColumns];
    Codec<kDtype>::load(row, group, values);
    for (int i = 0; i < kColumns && group * kColumns + i < op.out.width; ++i)
      out[group * kColumns + i] = values[i] * op.scale;
  });
}

}  // namespace

PagodaStatus embed(PagodaDevice* device, const PagodaEmbed* op, PagodaError* error) {
  if (const PagodaStatus status = requireF32(error, op->out)) return status;
  return withDtype(op->table.dtype, [&](auto dtype) {
    const auto groups = static_cast<int32_t>(ceilDivide(op->out.width, kCodecColumns));
    return launchRows(device, embedKernel<decltype(dtype)::value>, *op, op->out.rows, groups, "embed", error);
  });
}

}  // namespace pagoda::cuda
