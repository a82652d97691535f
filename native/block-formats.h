// Blocks of quantised weights as GGUF files hold them: a row of a matrix is cut into blocks of 32 or 256 columns, which
// lie one after the other. All numbers are little-endian, f16 are IEEE 754 halves, x_i is the value of column i.
#ifndef PAGODA_BLOCK_FORMATS_H
#define PAGODA_BLOCK_FORMATS_H

#include <stdint.h>

#include "backend.h"

namespace pagoda {

// x_i = d * codes[i]
struct BlockQ8_0 {
  uint16_t d;  // f16
  int8_t codes[32];
};

// x_i = d * (q_i - 8): q_i are the low nibbles of codes for i < 16, then the high ones.
struct BlockQ4_0 {
  uint16_t d;
  uint8_t codes[16];
};

// x_i = d * q_i + m, q_i as in Q4_0
struct BlockQ4_1 {
  uint16_t d;
  uint16_t m;
  uint8_t codes[16];
};

// x_i = d * (q_i - 16): the low four bits of q_i as in Q4_0, the fifth is bit i of `high`.
struct BlockQ5_0 {
  uint16_t d;
  uint8_t high[4];
  uint8_t codes[16];
};

// x_i = d * q_i + m, q_i as in Q5_0
struct BlockQ5_1 {
  uint16_t d;
  uint16_t m;
  uint8_t high[4];
  uint8_t codes[16];
};

// Eight groups g of 32 columns, x_i = d * s_g * q_i - dmin * m_g with s_g, m_g of six bits. For g < 4 they are the low
// six bits of scales[g] and scales[g + 4]; for others the low four bits are the low and the high nibble of
// scales[g + 4], and bits 4 and 5 are the two high bits of scales[g - 4] (s) and scales[g] (m).
// 64 columns share 32 bytes of codes: the first group is in the low nibbles, the second in the high ones.
struct BlockQ4_K {
  uint16_t d;
  uint16_t dmin;
  uint8_t scales[12];
  uint8_t codes[128];
};

// As Q4_K; the fifth bit of column c of group g is bit g of high[c].
struct BlockQ5_K {
  uint16_t d;
  uint16_t dmin;
  uint8_t scales[12];
  uint8_t high[32];
  uint8_t codes[128];
};

// Sixteen groups of 16 columns, x_i = d * scales[i / 16] * (q_i - 32). 128 columns share 64 bytes of `low` and 32 of
// `high`. Column i = 32 t + c of the 128, c < 32: its low four bits are in low[32 (t % 2) + c], in the low nibble for
// t < 2, else in the high one; its high two bits are bits 2 t and 2 t + 1 of high[c].
struct BlockQ6_K {
  uint8_t low[128];
  uint8_t high[64];
  int8_t scales[16];
  uint16_t d;
};

// Microscaling FP4 (Open Compute Project, MX specification 1.0): x_i = 2^(exponent - 127) * fp4(q_i), q_i as in Q4_0
// and fp4 a number of one sign, two exponent and one fraction bit: 0, 0.5, 1, 1.5, 2, 3, 4, 6, and from 8 on the same
// below zero. Exponent 255 is NaN.
struct BlockMxfp4 {
  uint8_t exponent;
  uint8_t codes[16];
};

static_assert(sizeof(BlockQ8_0) == 34 && sizeof(BlockQ4_0) == 18 && sizeof(BlockQ4_1) == 20);
static_assert(sizeof(BlockQ5_0) == 22 && sizeof(BlockQ5_1) == 24);
static_assert(sizeof(BlockQ4_K) == 144 && sizeof(BlockQ5_K) == 176 && sizeof(BlockQ6_K) == 210);
static_assert(sizeof(BlockMxfp4) == 17);

struct BlockFormat {
  int32_t columns;  // of a block; 1 for plain elements
  int32_t bytes;    // of a block; 0: no such dtype
};

static constexpr BlockFormat blockFormat(PagodaDtype dtype) {
  switch (dtype) {
    case PAGODA_F32:
      return {1, 4};
    case PAGODA_BF16:
    case PAGODA_F16:
      return {1, 2};
    case PAGODA_Q8_0:
      return {32, sizeof(BlockQ8_0)};
    case PAGODA_Q4_0:
      return {32, sizeof(BlockQ4_0)};
    case PAGODA_Q4_1:
      return {32, sizeof(BlockQ4_1)};
    case PAGODA_Q5_0:
      return {32, sizeof(BlockQ5_0)};
    case PAGODA_Q5_1:
      return {32, sizeof(BlockQ5_1)};
    case PAGODA_Q4_K:
      return {256, sizeof(BlockQ4_K)};
    case PAGODA_Q5_K:
      return {256, sizeof(BlockQ5_K)};
    case PAGODA_Q6_K:
      return {256, sizeof(BlockQ6_K)};
    case PAGODA_MXFP4:
      return {32, sizeof(BlockMxfp4)};
    case PAGODA_INT8:  // of a KV cache only
      break;
  }
  return {1, 0};
}

static constexpr bool isQuantized(PagodaDtype dtype) { return blockFormat(dtype).columns > 1; }

// Bytes of a row of `cols` columns, which the block divides.
static constexpr int64_t rowBytes(PagodaDtype dtype, int64_t cols) {
  return cols / blockFormat(dtype).columns * blockFormat(dtype).bytes;
}

}  // namespace pagoda

#endif
