// Latent attention in its expanded form, for tokens of one request.
#ifndef PAGODA_CPU_MLA_EXPANDED_H
#define PAGODA_CPU_MLA_EXPANDED_H

#include "isa-kernels.h"

namespace pagoda::PAGODA_ISA {

uint64_t mlaExpandedScratch(const PagodaMlaAttention& op, const MlaPass& pass, int32_t threads);
void mlaExpanded(const KernelContext& context, const PagodaMlaAttention& op, const MlaPass& pass);

}  // namespace pagoda::PAGODA_ISA

#endif
