// For each group of columns: out = x / sqrt(mean(x^2) + eps) * (weight + weightOffset). Zhang and Sennrich 2019,
// arXiv:1910.07467.
#include "isa-kernels.h"

namespace pagoda::PAGODA_ISA {
namespace {

// Four chains of vectors, added as a tree: short chains keep the error of f32 near 1e-7.
float sumOfSquares(const float* x, int32_t width) {
  f32v chains[4] = {zero(), zero(), zero(), zero()};
  int32_t i = 0;
  for (; i + 4 * kLanes <= width; i += 4 * kLanes) {
    for (int c = 0; c < 4; ++c) {
      const f32v v = load(x + i + c * kLanes);
      chains[c] = fma(v, v, chains[c]);
    }
  }
  for (; i < width; i += kLanes) {
    const f32v v = loadSome(x + i, width - i);
    chains[0] = fma(v, v, chains[0]);
  }
  return sum(add(add(chains[0], chains[1]), add(chains[2], chains[3])));
}

void normalize(const PagodaRmsNorm& op, const float* x, float* out) {
  const float mean = sumOfSquares(x, op.groupWidth) / static_cast<float>(op.groupWidth);
  const f32v scale = broadcast(1.0f / __builtin_sqrtf(mean + op.eps));
  const f32v offset = broadcast(op.weightOffset);
  const float* weight = static_cast<const float*>(op.weight.data);
  forVectors(op.groupWidth, [&](int32_t i, int n) {
    const f32v normal = mul(loadSome(x + i, n), scale);
    storeSome(out + i, mul(normal, add(loadSome(weight + i, n), offset)), n);
  });
}

}  // namespace

void rmsNorm(const KernelContext& context, const PagodaRmsNorm& op) {
  parallelRows(context.pool, op.out.rows, op.out.width, [&](int32_t row) {
    for (int32_t i = 0; i < op.out.width; i += op.groupWidth) {
      normalize(op, rowOf(op.x, row) + i, rowOf(op.out, row) + i);
    }
  });
}

}  // namespace pagoda::PAGODA_ISA
