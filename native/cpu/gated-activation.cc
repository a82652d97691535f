// out = activation(gate) * up
//   silu(x) = x / (1 + e^-x)
//   gelu(x) = x / 2 (1 + erf(x / sqrt 2))
//   geluTanh(x) = x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))
#include "isa-kernels.h"

namespace pagoda::PAGODA_ISA {
namespace {

PAGODA_INLINE f32v silu(f32v x) { return div(x, add(broadcast(1.0f), exp(sub(zero(), x)))); }

PAGODA_INLINE f32v gelu(f32v x) { return mul(mul(x, broadcast(0.5f)), onePlusErf(mul(x, broadcast(0.70710678f)))); }

PAGODA_INLINE f32v geluTanh(f32v x) {
  const f32v cubic = fma(mul(mul(x, x), x), broadcast(0.044715f), x);
  const f32v t = tanh(mul(cubic, broadcast(0.79788456f)));
  return mul(mul(x, broadcast(0.5f)), add(broadcast(1.0f), t));
}

template <class Activation>
void gate(const KernelContext& context, const PagodaGatedActivation& op, Activation activation) {
  parallelRows(context.pool, op.out.rows, op.out.width, [&](int32_t row) {
    const float* gates = rowOf(op.gate, row);
    const float* ups = rowOf(op.up, row);
    float* out = rowOf(op.out, row);
    forVectors(op.out.width, [&](int32_t i, int n) {
      storeSome(out + i, mul(activation(loadSome(gates + i, n)), loadSome(ups + i, n)), n);
    });
  });
}

}  // namespace

void gatedActivation(const KernelContext& context, const PagodaGatedActivation& op) {
  switch (op.activation) {
    case PAGODA_SILU:
      return gate(context, op, [](f32v x) { return silu(x); });
    case PAGODA_GELU:
      return gate(context, op, [](f32v x) { return gelu(x); });
    case PAGODA_GELU_TANH:
      return gate(context, op, [](f32v x) { return geluTanh(x); });
  }
}

}  // namespace pagoda::PAGODA_ISA
