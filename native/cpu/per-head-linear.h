// out(row, h) = W[h] x(row, h): a linear for each head, with weights that are stacked by rows in one matrix.
#ifndef PAGODA_CPU_PER_HEAD_LINEAR_H
#define PAGODA_CPU_PER_HEAD_LINEAR_H

#include "isa-kernels.h"

namespace pagoda::PAGODA_ISA {

// A range of columns for each head and row.
struct HeadRows {
  float* data;
  int64_t rowStride;              // elements
  int64_t headStride;             // elements
  const int32_t* rows = nullptr;  // row i is this one; NULL: i

  float* at(int64_t row, int64_t head) const {
    return data + (rows == nullptr ? row : rows[row]) * rowStride + head * headStride;
  }
};

// x is [rows, heads, weight.cols], out [rows, heads, weight.rows / heads]. Results have the bits that they have in a
// `linear` with the head's rows of the weight alone, whatever the rows beside them.
void linearPerHead(const KernelContext& context, const PagodaWeight& weight, int32_t heads, int32_t rows,
                   const HeadRows& x, const HeadRows& out);
uint64_t linearPerHeadScratch(const PagodaWeight& weight, int32_t heads, int32_t rows, int32_t threads);

}  // namespace pagoda::PAGODA_ISA

#endif
