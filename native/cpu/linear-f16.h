// The parts of `linear` and of packed-rows.h that are for f16 weights; op.x has rows. Scratch and packed rows are those
// of f32 weights.
#ifndef PAGODA_CPU_LINEAR_F16_H
#define PAGODA_CPU_LINEAR_F16_H

#include "isa-kernels.h"
#include "packed-rows.h"

namespace pagoda::PAGODA_ISA {

void linearF16(const KernelContext& context, const PagodaLinear& op);
void multiplyF16Panel(const PackedRows& x, int32_t first, int32_t count, const PagodaWeight& weight, int32_t panel,
                      float* sums);

}  // namespace pagoda::PAGODA_ISA

#endif
