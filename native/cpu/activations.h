// Gated activations, a vector at a time:
//   silu(x) = x / (1 + e^-x)
//   gelu(x) = x / 2 (1 + erf(x / sqrt 2))
//   geluTanh(x) = x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))
//   clampedSwiglu: backend.h
// Included by files compiled per instruction set.
#ifndef PAGODA_CPU_ACTIVATIONS_H
#define PAGODA_CPU_ACTIVATIONS_H

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

PAGODA_INLINE f32v clampedSwiglu(f32v gate, f32v up) {
  const f32v g = min(broadcast(7.0f), gate);
  const f32v u = max(broadcast(-7.0f), min(broadcast(7.0f), up));
  const f32v swish = div(g, add(broadcast(1.0f), exp(mul(g, broadcast(-1.702f)))));
  return mul(swish, add(u, broadcast(1.0f)));
}

// Calls body with a function of (gate, up).
template <class Body>
PAGODA_INLINE void withActivation(PagodaActivation activation, Body body) {
  switch (activation) {
    case PAGODA_SILU:
      return body([](f32v gate, f32v up) { return mul(silu(gate), up); });
    case PAGODA_GELU:
      return body([](f32v gate, f32v up) { return mul(gelu(gate), up); });
    case PAGODA_GELU_TANH:
      return body([](f32v gate, f32v up) { return mul(geluTanh(gate), up); });
    case PAGODA_CLAMPED_SWIGLU:
      return body([](f32v gate, f32v up) { return clampedSwiglu(gate, up); });
  }
}

}  // namespace
}  // namespace pagoda::PAGODA_ISA

#endif
