// The part of `linear` that is for f16 weights; op.x has rows. Its scratch is that of f32 weights.
#ifndef PAGODA_CPU_LINEAR_F16_H
#define PAGODA_CPU_LINEAR_F16_H

#include "isa-kernels.h"

namespace pagoda::PAGODA_ISA {

void linearF16(const KernelContext& context, const PagodaLinear& op);

}  // namespace pagoda::PAGODA_ISA

#endif
