#include "isa.h"

namespace pagoda {

#if defined(__x86_64__)

namespace avx512 {
extern const KernelTable kKernels;
}
#if defined(PAGODA_AVXVNNI)
namespace avxvnni {
extern const KernelTable kKernels;
}
#endif
namespace avx2 {
extern const KernelTable kKernels;
}
namespace base {
extern const KernelTable kKernels;
}

namespace {

// What the files of the sets are compiled for: x86-64-v3, the same with avxvnni (processors without AVX-512, from 2021
// on), and x86-64-v4 with bf16 and vnni (CMakeLists.txt). lzcnt, movbe and f16c came with the same processors as bmi2,
// and older compilers cannot ask for them.
bool hasAvx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
         __builtin_cpu_supports("bmi2");
}
bool hasAvx512() {
  return hasAvx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512cd") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bf16") &&
         __builtin_cpu_supports("avx512vnni");
}

}  // namespace

size_t listIsas(Isa* isas, size_t capacity) {
  __builtin_cpu_init();
  const Isa all[] = {
    {&avx512::kKernels, hasAvx512()},
#if defined(PAGODA_AVXVNNI)
    {&avxvnni::kKernels, hasAvx2() && __builtin_cpu_supports("avxvnni")},
#endif
    {&avx2::kKernels, hasAvx2()},
    {&base::kKernels, true},
  };
  size_t count = 0;
  for (const Isa& isa : all) {
    if (count < capacity) isas[count++] = isa;
  }
  return count;
}

#else

#if defined(__aarch64__)
namespace neon {
extern const KernelTable kKernels;
}
namespace only = neon;
#else
namespace base {
extern const KernelTable kKernels;
}
namespace only = base;
#endif

size_t listIsas(Isa* isas, size_t capacity) {
  if (capacity > 0) isas[0] = {&only::kKernels, true};
  return capacity > 0 ? 1 : 0;
}

#endif

}  // namespace pagoda
