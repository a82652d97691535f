// Sentences for the caller of a backend function.
#ifndef PAGODA_CPU_STATUS_H
#define PAGODA_CPU_STATUS_H

#include "../backend.h"

namespace pagoda {

// Writes the sentence and returns `status`.
__attribute__((format(printf, 3, 4))) PagodaStatus fail(PagodaError* error, PagodaStatus status, const char* format,
                                                        ...);

}  // namespace pagoda

#endif
