// How quantised matrices and tables lie in the memory of the CPU backend: no value is changed, codes keep their bits.
//
// [rows, cols] is stored as [panel][block], a panel being W outputs and a block 32 or 256 columns as in the file. A
// block is a header, where groups share one, and a group for every 32 columns:
//
//   header   d f16 [W], then, with minima, dmin f16 [W]            K types only
//   codes    bytes [8][W][4]                                       8 bits
//            bytes [4][W][4], two codes a byte                     else
//   high     bytes [W][4] or [2][W][4], further bits of the codes  5 or 6 bits
//   scale    f16 [W], of K types one byte [W], Q6_K [2][W] signed, of FP4 codes one byte [W]
//   min      f16 [W], of K types one byte [W]                      with minima
//
// Four columns of all outputs are a step, as the dot instructions want them. 8 bits: step s is codes[s]. Else steps 2 p
// and 2 p + 1 are the low and the high nibbles of codes[p]; the fifth bit of step s is bit s of its byte of `high`; the
// fifth and sixth bits are bits 2 (s % 4) and 2 (s % 4) + 1 of its byte of high[s / 4].
//
// value = scale * (code - offset) + min, where in K types scale = d * its byte and min = dmin * its byte. An FP4 code
// stands for twice its number plus offset, and its scale is 2^(byte - 128).
// All parts are multiples of W bytes. The size is that of the file, but for 148 bytes instead of 144 in Q4_K, 180
// instead of 176 in Q5_K, and the absent outputs of the last panel, whose blocks are zero.
#ifndef PAGODA_CPU_PACKED_FORMAT_H
#define PAGODA_CPU_PACKED_FORMAT_H

#include <stdint.h>

#include "../block-formats.h"

namespace pagoda {

constexpr int32_t kGroupColumns = 32;
constexpr int32_t kSliceColumns = 256;  // of a panel, that are multiplied with all rows before the next

struct PackedFormat {
  int32_t bits;    // of a code
  int32_t offset;  // of 8-bit codes: 0 or 128, see KernelTable::byteOffset
  bool mins;
  bool header;         // K types: 8 groups a block instead of one
  int32_t scales = 1;  // of a group: 1, or 2 for 16 columns each
  bool fp4 = false;

  constexpr int32_t groups() const { return header ? 8 : 1; }
  constexpr int32_t columns() const { return groups() * kGroupColumns; }

  // Of a row of activations that share a scale. 8 bits are for exactness; below, what 256 columns for one scale add to
  // the error is little beside that of the weights, and each sum of 32 columns takes a multiplication less.
  constexpr int32_t activationColumns() const { return bits == 8 ? kGroupColumns : kSliceColumns; }

  // Bytes, and places in a block, of one output, so all to be multiplied by W.
  constexpr int32_t headerBytes() const { return header ? (mins ? 4 : 2) : 0; }
  constexpr int32_t codeBytes() const { return bits == 8 ? 32 : 16; }
  constexpr int32_t highBytes() const { return bits == 8 ? 0 : 4 * (bits - 4); }
  constexpr int32_t scaleAt() const { return codeBytes() + highBytes(); }  // in a group
  constexpr int32_t minAt() const { return scaleAt() + (header ? scales : fp4 ? 1 : 2); }
  constexpr int32_t groupBytes() const { return minAt() + (mins ? (header ? 1 : 2) : 0); }
  constexpr int32_t blockBytes() const { return headerBytes() + groups() * groupBytes(); }
};

static constexpr PackedFormat packedFormat(PagodaDtype dtype, int32_t byteOffset) {
  switch (dtype) {
    case PAGODA_Q8_0:
      return {.bits = 8, .offset = byteOffset, .mins = false, .header = false};
    case PAGODA_Q4_0:
      return {.bits = 4, .offset = 8, .mins = false, .header = false};
    case PAGODA_Q4_1:
      return {.bits = 4, .offset = 0, .mins = true, .header = false};
    case PAGODA_Q5_0:
      return {.bits = 5, .offset = 16, .mins = false, .header = false};
    case PAGODA_Q5_1:
      return {.bits = 5, .offset = 0, .mins = true, .header = false};
    case PAGODA_Q4_K:
      return {.bits = 4, .offset = 0, .mins = true, .header = true};
    case PAGODA_Q5_K:
      return {.bits = 5, .offset = 0, .mins = true, .header = true};
    case PAGODA_Q6_K:
      return {.bits = 6, .offset = 32, .mins = false, .header = true, .scales = 2};
    case PAGODA_MXFP4:
      return {.bits = 4, .offset = 12, .mins = false, .header = false, .fp4 = true};
    default:
      return {};
  }
}

}  // namespace pagoda

#endif
