// activation(gate) * up, as PagodaActivation defines them.
#pragma once

#include "kernel.cuh"

namespace pagoda::cuda {

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

__device__ __forceinline__ float geluTanh(float x) {
  constexpr float kRoot = 0.7978845608028654f;  // sqrt(2 / pi)
  return 0.5f * x * (1.0f + tanhf(kRoot * (x + 0.044715f * x * x * x)));
}

__device__ __forceinline__ float gelu(float x) {
  constexpr float kInverseRoot2 = 0.7071067811865476f;
  return 0.5f * x * (1.0f + erff(x * kInverseRoot2));
}

/// Not fmin and fmax, which would lose NaN.
__device__ __forceinline__ float clampedSwiglu(float gate, float up) {
  constexpr float kLimit = 7.0f;
  gate = gate > kLimit ? kLimit : gate;
  up = up > kLimit ? kLimit : up < -kLimit ? -kLimit : up;
  return gate * sigmoid(1.702f * gate) * (up + 1.0f);
}

__device__ __forceinline__ float activate(PagodaActivation activation, float gate, float up) {
  switch (activation) {
    case PAGODA_SILU:
      return gate * sigmoid(gate) * up;
    case PAGODA_GELU_TANH:
      return geluTanh(gate) * up;
    case PAGODA_GELU:
      return gelu(gate) * up;
    case PAGODA_CLAMPED_SWIGLU:
      return clampedSwiglu(gate, up);
  }
  return 0.0f;
}

}  // namespace pagoda::cuda
