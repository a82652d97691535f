// IEEE 754 halves and powers of two by bit arithmetic, for code that handles single elements.
#ifndef PAGODA_CPU_HALF_H
#define PAGODA_CPU_HALF_H

#include <stdint.h>

namespace pagoda {

// Exact, subnormals, infinities and NaN included.
static inline float halfToFloat(uint16_t x) {
  const uint32_t sign = static_cast<uint32_t>(x & 0x8000u) << 16;
  uint32_t bits = static_cast<uint32_t>(x & 0x7fffu) << 13;
  float value;
  if (bits >= 0x0f800000u) {
    bits |= sign | 0x7f800000u;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
  }
  // Read as f32 the exponent is too small by 127 - 15; the product also renormalises subnormals.
  __builtin_memcpy(&value, &bits, sizeof value);
  value *= 0x1p112f;
  return sign != 0 ? -value : value;
}

// Rounds to nearest even, what is too large to infinity; NaN stays NaN.
static inline uint16_t floatToHalf(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  bits &= 0x7fffffffu;
  if (bits > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (bits >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 65520 and more
  if (bits < 0x38800000u) {                                               // below 2^-14: a multiple of 2^-24
    float size;
    __builtin_memcpy(&size, &bits, sizeof size);
    size += 0.5f;  // whose last place is 2^-24
    __builtin_memcpy(&bits, &size, sizeof bits);
    return static_cast<uint16_t>(sign | (bits - 0x3f000000u));
  }
  const uint32_t rounded = bits + 0xfffu + ((bits >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - (112u << 23)) >> 13));
}

// 2^(exponent - 128), exact; infinity for 255.
static inline float halvedPower(uint8_t exponent) {
  const uint32_t bits = exponent == 0 ? 0x00400000u : static_cast<uint32_t>(exponent) << 23;
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value / 2;
}

}  // namespace pagoda

#endif
