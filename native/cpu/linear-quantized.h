// The part of `linear` that is for quantised weights; op.x has rows.
#ifndef PAGODA_CPU_LINEAR_QUANTIZED_H
#define PAGODA_CPU_LINEAR_QUANTIZED_H

#include "isa-kernels.h"
#include "packed-format.h"

namespace pagoda::PAGODA_ISA {

uint64_t linearQuantizedScratch(const PagodaLinear& op, int32_t threads);  // bytes
void linearQuantized(const KernelContext& context, const PagodaLinear& op);

}  // namespace pagoda::PAGODA_ISA

#endif
