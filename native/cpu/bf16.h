// bf16 by bit arithmetic, for code that handles single elements.
#ifndef PAGODA_CPU_BF16_H
#define PAGODA_CPU_BF16_H

#include <stdint.h>

namespace pagoda {

static inline float bf16ToFloat(uint16_t x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

// Rounds to nearest even; NaN stays NaN.
static inline uint16_t floatToBf16(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  const uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  return static_cast<uint16_t>((nan ? (bits | 0x400000u) : rounded) >> 16);
}

}  // namespace pagoda

#endif
