// Log-probabilities of a row's raw logits.
#ifndef PAGODA_CPU_LOGPROBS_H
#define PAGODA_CPU_LOGPROBS_H

#include <stdint.h>

#include "../backend.h"

namespace pagoda {

// Writes the row's results where it wants any. `largest` is the largest of its finite logits.
void writeLogprobs(const PagodaSample& op, int32_t row, const float* logits, float largest, int32_t token);

}  // namespace pagoda

#endif
