// What changes a row's logits before a token is drawn: PagodaSampleControls.
#ifndef PAGODA_CPU_LOGITS_PROCESSORS_H
#define PAGODA_CPU_LOGITS_PROCESSORS_H

#include <stdint.h>

#include "../backend.h"

namespace pagoda {

// Memory for one row at a time; contents undefined.
struct ProcessorScratch {
  float* logits;     // [vocab], the result
  int32_t* counts;   // [vocab]
  int32_t* lengths;  // [maxHistory]
};

// Whether any row's logits may be changed.
bool hasControls(const PagodaSample& op);

// The row's logits after all that applies: `raw` itself where nothing does, else scratch.logits.
const float* processLogits(const PagodaSample& op, int32_t row, const float* raw, const ProcessorScratch& scratch);

}  // namespace pagoda

#endif
