#ifndef PAGODA_CPU_SAMPLE_H
#define PAGODA_CPU_SAMPLE_H

#include <stdint.h>

#include "../backend.h"

namespace pagoda {

class ThreadPool;

// Bytes that `sample` needs.
uint64_t sampleScratch(const PagodaSample& op, int32_t threads);

void sample(ThreadPool& pool, void* scratch, const PagodaSample& op);

}  // namespace pagoda

#endif
