// What the parts of the runner share.
#pragma once

#include "runner.h"

namespace pagoda {

/// Device addresses of one step's inputs and results.
struct Runner::Uploaded {
  const int32_t *tokenIds, *positions, *slotMapping, *queryStartLoc, *seqLens, *blockTable, *blockCopies, *outputRows;
  int32_t maxSeqLen;    // of the step; of a graph an upper bound
  bool mayBeRecorded;   // host values are upper bounds
  PagodaSample sample;  // but for the logits
  size_t numLogprobs;   // words of its log-probabilities
};

struct Runner::Graph {
  DeviceMemory inputs;  // stays where it is: all steps of the bucket take as many words
  DeviceGraph recorded;
  bool hasRun = false;
};

}  // namespace pagoda
