// The running state of a softmax-weighted sum over the keys seen so far: m is the largest score, l the sum of
// exp(score - m), o the sum of exp(score - m) * value. States over disjoint keys merge (Milakov and Gimelshein 2018,
// arXiv:1805.02867; Dao et al. 2022, arXiv:2205.14135). Included by files compiled per instruction set.
#ifndef PAGODA_CPU_FLASH_STATE_H
#define PAGODA_CPU_FLASH_STATE_H

#include "isa-kernels.h"

namespace pagoda::PAGODA_ISA {
namespace {

struct FlashState {
  float* o;  // [width], width a multiple of kLanes
  float m;
  float l;  // 0: no keys yet
};

// No keys seen.
inline void init(FlashState& state, int32_t width) {
  state.m = -__builtin_inff();
  state.l = 0.0f;
  forVectors(width, [&](int32_t i, int) { store(state.o + i, zero()); });
}

// Moves the state to the reference score `m` >= state.m.
inline void rescale(FlashState& state, float m, int32_t width) {
  const float factor = exp(state.m - m);
  state.m = m;
  if (factor == 1.0f) return;
  state.l *= factor;
  forVectors(width, [&](int32_t i, int) { store(state.o + i, mul(load(state.o + i), broadcast(factor))); });
}

// into = the state over the keys of both.
inline void merge(FlashState& into, const FlashState& from, int32_t width) {
  if (from.l == 0.0f) return;
  const float m = into.m > from.m ? into.m : from.m;
  rescale(into, m, width);
  const float factor = exp(from.m - m);
  into.l += from.l * factor;
  forVectors(width,
             [&](int32_t i, int) { store(into.o + i, fma(load(from.o + i), broadcast(factor), load(into.o + i))); });
}

// Adds a key that has this score and no value.
inline void addSink(FlashState& state, float score, int32_t width) {
  if (score > state.m) rescale(state, score, width);
  if (state.m > -__builtin_inff()) state.l += exp(score - state.m);
}

// out[outWidth] = o / l. Adding zero makes -0 to 0: the sign of a zero may depend on the keys masked beside it.
inline void normalize(const FlashState& state, float* out, int32_t outWidth) {
  const f32v factor = broadcast(1.0f / state.l);
  forVectors(outWidth, [&](int32_t i, int n) { storeSome(out + i, add(mul(load(state.o + i), factor), zero()), n); });
}

}  // namespace
}  // namespace pagoda::PAGODA_ISA

#endif
