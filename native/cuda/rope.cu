// (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin) for the pairs of the first rotaryDim columns of each head. A thread
// has both of a pair, so `out` may be `x`.
#include "kernel.cuh"

namespace pagoda::cuda {

static __global__ void ropeKernel(const PagodaRope op) {
  const float* x = rowOf(op.x, blockIdx.x);
  const float* table = rowOf(op.table, blockIdx.x);
  float* out = rowOf(op.out, blockIdx.x);
  const int half = op.rotaryDim / 2;
  const int perHead = op.headDim - half;  // pairs, then columns that are copied
  forColumns(op.out.width / op.headDim * perHead, [&](int index) {
    const int head = index / perHead * op.headDim, i = index % perHead;
    if (i >= half) {
      const int column = head + i + half;
      out[column] = x[column];
      return;
    }
    const int first = head + (op.interleaved ? 2 * i : i);
    const int second = first + (op.interleaved ? 1 : half);
    const float x1 = x[first], x2 = x[second], cosine = table[i], sine = table[half + i];
    out[first] = x1 * cosine - x2 * sine;
    out[second] = x2 * cosine + x1 * sine;
  });
}

PagodaStatus rope(PagodaDevice* device, const PagodaRope* op, PagodaError* error) {
  if (const PagodaStatus status = requireF32(error, op->out, op->x, op->table)) return status;
  if (op->headDim <= 0 || op->rotaryDim % 2 != 0 || op->rotaryDim > op->headDim || op->out.width % op->headDim != 0)
    return fail(PAGODA_INVALID, "Expected an even `rotaryDim` within heads that divide the width", error);
  return launchRows(device, ropeKernel, *op, op->out.rows, op->out.width, "rope", error);
}

}  // namespace pagoda::cuda
