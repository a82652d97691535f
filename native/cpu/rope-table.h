#ifndef PAGODA_CPU_ROPE_TABLE_H
#define PAGODA_CPU_ROPE_TABLE_H

#include "../backend.h"

namespace pagoda {

class ThreadPool;

void ropeTable(ThreadPool& pool, const PagodaRopeTable& op);

}  // namespace pagoda

#endif
