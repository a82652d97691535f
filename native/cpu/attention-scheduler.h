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

class AttentionScheduler {
 public:
  // Holds until the next call. Throws std::bad_alloc.
  AttentionSchedule schedule(const PagodaAttention& op, int32_t threads);

 private:
  friend class ScheduleBuilder;

  SharedSplits shared_;
  std::vector<QueryTile> tiles_;
  std::vector<int32_t> members_;  // each tile by itself, then those of shared parts
  std::vector<AttentionPart> parts_;
  std::vector<AttentionPart> finishes_;
};

}  // namespace pagoda

#endif
