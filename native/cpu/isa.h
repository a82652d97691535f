// The instruction sets of this build, and which of them this machine has.
#ifndef PAGODA_CPU_ISA_H
#define PAGODA_CPU_ISA_H

#include <stddef.h>

#include "kernels.h"

namespace pagoda {

struct Isa {
  const KernelTable* kernels;
  bool available;
};

// Best first; returns the count and writes at most `capacity` of them.
size_t listIsas(Isa* isas, size_t capacity);

constexpr size_t kMaxIsas = 4;

}  // namespace pagoda

#endif
