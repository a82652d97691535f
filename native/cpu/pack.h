// Packs weights into the layouts that the kernels read: matrices in panels of outputs (kernels.h; quantised matrices
// and tables: packed-format.h), other tables and vectors row-major.
#ifndef PAGODA_CPU_PACK_H
#define PAGODA_CPU_PACK_H

#include <stdint.h>

#include "../backend.h"

namespace pagoda {

class ThreadPool;
struct KernelTable;

// Bytes of the packed form; false where they do not fit 63 bits.
bool packedBytes(const PagodaWeight& weight, const KernelTable& kernels, uint64_t* bytes);

// Packs rows [rowStart, rowStart + rows) from row-major `source`. The call that brings the last row of a matrix also
// zeroes the absent outputs of its panel.
void packRows(const PagodaWeight& weight, const KernelTable& kernels, int32_t rowStart, int32_t rows,
              const void* source, PagodaDtype sourceDtype, ThreadPool& pool);

}  // namespace pagoda

#endif
