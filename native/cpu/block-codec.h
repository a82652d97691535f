// One block of a quantised file taken apart, and made from floats.
#ifndef PAGODA_CPU_BLOCK_CODEC_H
#define PAGODA_CPU_BLOCK_CODEC_H

#include <stdint.h>

#include "../block-formats.h"

namespace pagoda {

constexpr int32_t kMaxBlockColumns = 256;

// x_i = scale * (codes[i] - offset) + min. d and m are f16 bits; in K types they are factors of the bytes of the group.
struct BlockParts {
  uint8_t codes[kMaxBlockColumns];
  uint16_t d;
  uint16_t m;          // K types: -dmin
  uint8_t scales[16];  // K types: of 32 columns, Q6_K: of 16, signed
  uint8_t mins[8];     // K types
};

// `offset` of the codes above: 128 for Q8_0.
int32_t codeOffset(PagodaDtype dtype);

void decodeBlock(PagodaDtype dtype, const void* block, BlockParts& parts);

// Values [0, columns) of a block, rounded once to f32.
void dequantizeBlock(PagodaDtype dtype, const void* block, float* values);

// Whether blocks of this type can be made from floats.
bool canQuantize(PagodaDtype dtype);

// Rounds the values of one block, see the functions it calls for how. Values that are not finite make the block's value
// NaN.
void quantizeBlock(PagodaDtype dtype, const float* values, void* block);

}  // namespace pagoda

#endif
