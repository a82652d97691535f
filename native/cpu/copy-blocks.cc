// Copies whole blocks of one layer's cache, pair after pair (a later pair may read what an earlier one wrote).
#include "isa-kernels.h"
#include "kv-layout.h"

namespace pagoda::PAGODA_ISA {

void copyBlocks(const KernelContext&, const PagodaCopyBlocks& op) {
  const size_t bytes = static_cast<size_t>(kvBlockBytes(op.cache));
  char* blocks = static_cast<char*>(op.cache.data);
  for (int32_t i = 0; i < op.numPairs; ++i) {
    const size_t from = static_cast<size_t>(op.pairs[2 * i]);
    const size_t to = static_cast<size_t>(op.pairs[2 * i + 1]);
    if (from != to) __builtin_memcpy(blocks + to * bytes, blocks + from * bytes, bytes);
  }
}

}  // namespace pagoda::PAGODA_ISA
