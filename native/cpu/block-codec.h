// One block of a quantised file taken apart.
#ifndef PAGODA_CPU_BLOCK_CODEC_H
#define PAGODA_CPU_BLOCK_CODEC_H

#include <stdint.h>

#include "../block-formats.h"

namespace pagoda {

constexpr int32_t kMaxBlockColumns = 256;

// x_i = scale * (codes[i] - offset) + min. d and m are f16 bits; in K types they are factors of the bytes of the group.
// MXFP4: x_i = 2^(scales[0] - 128) * kDoubledFp4[codes[i]].
struct BlockParts {
  uint8_t codes[kMaxBlockColumns];
  uint16_t d;
  uint16_t m;          // K types: -dmin
  uint8_t scales[16];  // K types: of 32 columns, Q6_K: of 16, signed; MXFP4: [0], the exponent
  uint8_t mins[8];     // K types
};

// Twice the numbers of FP4, which makes them integers.
constexpr int8_t kDoubledFp4[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// `offset` of the codes above: 128 for Q8_0.
int32_t codeOffset(PagodaDtype dtype);

void decodeBlock(PagodaDtype dtype, const void* block, BlockParts& parts);

// Values [0, columns) of a block, rounded once to f32.
void dequantizeBlock(PagodaDtype dtype, const void* block, float* values);

// Whether blocks of this type can be made from floats (KernelTable::quantizeBlock).
static inline bool canQuantize(PagodaDtype dtype) {
  return dtype == PAGODA_Q8_0 || dtype == PAGODA_Q4_1 || dtype == PAGODA_Q4_K;
}

}  // namespace pagoda

#endif
