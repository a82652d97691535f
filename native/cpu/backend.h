// The CPU backend: native/backend.h in plain C++ on a pool of threads.
#ifndef PAGODA_CPU_BACKEND_H
#define PAGODA_CPU_BACKEND_H

#include "../backend.h"

extern "C" const PagodaBackend* pagodaCpuBackend(void);

#endif
