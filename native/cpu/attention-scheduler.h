// Decides how the attention of a batch is cut into work items.
//
// Query tiles that take long beside the whole batch are cut along their keys, at split boundaries, so that all workers
// have something to do and end at about the same time. Tiles of different requests whose keys are in the same blocks
// attend to these together (cascade attention: Ye et al. 2024, "Cascade Inference", flashinfer.ai; Juravsky et al.
// 2024, arXiv:2402.05099), so that K and V are read once for all of them.
#ifndef PAGODA_CPU_ATTENTION_SCHEDULER_H
#define PAGODA_CPU_ATTENTION_SCHEDULER_H

#include <vector>

#include "attention-schedule.h"
#include "shared-splits.h"

namespace pagoda {

// What a schedule is made of, kept for the next one.
struct ScheduleMemory {
  SharedSplits shared;
  std::vector<QueryTile> tiles;
  std::vector<int32_t> members;  // each tile by itself, then those of parts of several tiles
  std::vector<int32_t> stateBegins;
  std::vector<AttentionPart> parts;
  std::vector<AttentionPart> finishes;
};

class AttentionScheduler {
 public:
  // Holds until the next call. Throws std::bad_alloc.
  AttentionSchedule schedule(const PagodaAttention& op, int32_t threads);

 private:
  ScheduleMemory memory_;
};

}  // namespace pagoda

#endif
