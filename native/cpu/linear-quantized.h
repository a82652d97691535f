// The parts of `linear` and of packed-rows.h that are for quantised weights; op.x has rows.
#ifndef PAGODA_CPU_LINEAR_QUANTIZED_H
#define PAGODA_CPU_LINEAR_QUANTIZED_H

#include "isa-kernels.h"
#include "packed-format.h"
#include "packed-rows.h"

namespace pagoda::PAGODA_ISA {

uint64_t linearQuantizedScratch(const PagodaLinear& op, int32_t threads);  // bytes
void linearQuantized(const KernelContext& context, const PagodaLinear& op);

uint64_t packedQuantizedBytes(int64_t rows, int32_t width);
void packQuantizedRow(const PackedRows& to, int32_t row, const float* x);
void multiplyQuantizedPanel(const PackedRows& x, int32_t first, int32_t count, const PagodaWeight& weight,
                            int32_t panel, float* sums);

}  // namespace pagoda::PAGODA_ISA

#endif
