// Cheap checks of op parameters on the host, before a kernel runs. Pointers are taken on trust, as are the ids in a
// block table and the contents of frequencies and sampling parameters; other indices are checked against their bounds.
#ifndef PAGODA_CPU_VALIDATE_H
#define PAGODA_CPU_VALIDATE_H

#include "../backend.h"

namespace pagoda {

PagodaStatus validateWeight(const PagodaWeight& weight, PagodaError* error);
PagodaStatus validateCache(const PagodaKvCache& cache, PagodaError* error);

PagodaStatus validate(const PagodaEmbed& op, PagodaError* error);
PagodaStatus validate(const PagodaRmsNorm& op, PagodaError* error);
PagodaStatus validate(const PagodaLinear& op, PagodaError* error);
PagodaStatus validate(const PagodaRopeTable& op, PagodaError* error);
PagodaStatus validate(const PagodaRope& op, PagodaError* error);
PagodaStatus validate(const PagodaCacheWrite& op, PagodaError* error);
PagodaStatus validate(const PagodaCopyBlocks& op, PagodaError* error);
PagodaStatus validate(const PagodaAttention& op, PagodaError* error);
PagodaStatus validate(const PagodaLatentWrite& op, PagodaError* error);
PagodaStatus validate(const PagodaMlaAttention& op, PagodaError* error);
PagodaStatus validate(const PagodaGatherKv& op, PagodaError* error);
PagodaStatus validate(const PagodaGatedActivation& op, PagodaError* error);
PagodaStatus validate(const PagodaAdd& op, PagodaError* error);
PagodaStatus validate(const PagodaRoute& op, PagodaError* error);
PagodaStatus validate(const PagodaExperts& op, PagodaError* error);
PagodaStatus validate(const PagodaTakeRows& op, PagodaError* error);
PagodaStatus validate(const PagodaSample& op, PagodaError* error);

}  // namespace pagoda

#endif
