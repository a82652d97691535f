// How the attention of a batch is cut into work items. Query tiles whose keys take long beside the whole batch are cut
// along their keys, at split boundaries, so that all workers have something to do and end at about the same time.
//
// Splits are kSplitKeys keys at absolute positions; each has its own FlashState, and a query tile's states are merged
// in order, whether one worker computes them or several. So the schedule, which depends on the batch and the number of
// workers, decides no bit of the result.
#ifndef PAGODA_CPU_ATTENTION_SCHEDULE_H
#define PAGODA_CPU_ATTENTION_SCHEDULE_H

#include <stdint.h>

#include "../backend.h"

namespace pagoda {

constexpr int32_t kSplitKeys = 512;

// Some query tokens of one request, and the splits [firstSplit, endSplit) of what they attend to; for each KV head.
struct AttentionPart {
  int32_t request;
  int32_t row;  // of the first token in query and out
  int32_t tokens;
  int32_t position;  // of the first token
  int32_t firstSplit;
  int32_t endSplit;
  int64_t firstState;  // of the part's first split and first KV head; -1: the part is a whole query tile
};

struct AttentionSchedule {
  int32_t numParts;
  int32_t numCut;     // query tiles that are cut into several parts
  int64_t numStates;  // of those query tiles, [splits][KV heads] each
};

// Room that `parts` and `cut` of scheduleAttention need.
int64_t mostAttentionParts(const PagodaBatch& batch, int32_t tokensPerTile, int32_t threads);

// Fills `parts`, those that take longest first, and `cut`, the whole query tiles that were cut; NULL: only counts.
AttentionSchedule scheduleAttention(const PagodaAttention& op, int32_t tokensPerTile, int32_t threads,
                                    AttentionPart* parts, AttentionPart* cut);

}  // namespace pagoda

#endif
