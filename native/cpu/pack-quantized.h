// Packing where the source or the weight is quantised.
#ifndef PAGODA_CPU_PACK_QUANTIZED_H
#define PAGODA_CPU_PACK_QUANTIZED_H

#include <stdint.h>

#include "../backend.h"

namespace pagoda {

class ThreadPool;
struct KernelTable;

// Whether values of `source` can become a weight of `dtype`.
bool canPack(PagodaDtype dtype, PagodaDtype source);

// As packRows of pack.h, for a quantised source or weight that `canPack` allows. A block of the weight's own type keeps
// its values; others are rounded to the weight's.
void packQuantizedRows(const PagodaWeight& weight, const KernelTable& kernels, int32_t rowStart, int32_t rows,
                       const void* source, PagodaDtype sourceDtype, ThreadPool& pool);

}  // namespace pagoda

#endif
