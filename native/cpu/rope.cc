// Rotary embedding: (x1, x2) -> (x1 c - x2 s, x2 c + x1 s) over pairs of columns. Su et al. 2021, arXiv:2104.09864.
#include "isa-kernels.h"

namespace pagoda::PAGODA_ISA {
namespace {

// x2 stands half = rotaryDim / 2 behind x1.
void rotateHalves(const float* x, const float* cosines, const float* sines, float* out, int32_t half) {
  forVectors(half, [&](int32_t i, int n) {
    const f32v x1 = loadSome(x + i, n);
    const f32v x2 = loadSome(x + half + i, n);
    const f32v c = loadSome(cosines + i, n);
    const f32v s = loadSome(sines + i, n);
    storeSome(out + i, sub(mul(x1, c), mul(x2, s)), n);
    storeSome(out + half + i, add(mul(x2, c), mul(x1, s)), n);
  });
}

// x2 stands next to x1.
void rotateNeighbours(const float* x, const float* cosines, const float* sines, float* out, int32_t half) {
  for (int32_t i = 0; i < half; ++i) {
    const float x1 = x[2 * i];
    const float x2 = x[2 * i + 1];
    out[2 * i] = x1 * cosines[i] - x2 * sines[i];
    out[2 * i + 1] = x2 * cosines[i] + x1 * sines[i];
  }
}

}  // namespace

void rope(const KernelContext& context, const PagodaRope& op) {
  const int32_t half = op.rotaryDim / 2;
  const size_t rest = sizeof(float) * static_cast<size_t>(op.headDim - op.rotaryDim);
  parallelRows(context.pool, op.out.rows, op.out.width, [&](int32_t row) {
    const float* cosines = rowOf(op.table, row);
    for (int32_t head = 0; head < op.out.width; head += op.headDim) {
      const float* x = rowOf(op.x, row) + head;
      float* out = rowOf(op.out, row) + head;
      (op.interleaved != 0 ? rotateNeighbours : rotateHalves)(x, cosines, cosines + half, out, half);
      if (out != x) __builtin_memcpy(out + op.rotaryDim, x + op.rotaryDim, rest);
    }
  });
}

}  // namespace pagoda::PAGODA_ISA
