// Products of single panels, for ops that choose their rows themselves: the kernels of `linear`, one panel at a time.
// Each result has the bits that it has in a linear, whatever the rows beside it.
#ifndef PAGODA_CPU_PACKED_ROWS_H
#define PAGODA_CPU_PACKED_ROWS_H

#include "isa-kernels.h"

namespace pagoda::PAGODA_ISA {

// Rows of activations as the kernels for weights of a type read them: f32 as they are, rounded to bf16, or codes.
struct PackedRows {
  void* data;  // packedRowsBytes bytes, aligned to 64
  int32_t rows;
  int32_t width;
  PagodaDtype dtype;  // of the weights
};

// Whether packed rows are plain f32 [rows, width].
inline bool packsAsFloats(PagodaDtype dtype) {
  return dtype == PAGODA_F32 || dtype == PAGODA_F16 || (dtype == PAGODA_BF16 && !kBf16Dot);
}

uint64_t packedRowsBytes(PagodaDtype dtype, int64_t rows, int32_t width);
void packRow(const PackedRows& to, int32_t row, const float* x);

// sums[count, kPanelWidth] = rows [first, first + count) times outputs [panel * kPanelWidth, ...) of the weight, whose
// type and columns are those of x.
void multiplyPackedPanel(const PackedRows& x, int32_t first, int32_t count, const PagodaWeight& weight, int32_t panel,
                         float* sums);

}  // namespace pagoda::PAGODA_ISA

#endif
