// One table of kernels an instruction set; backend.cc picks one when a device is opened.
#ifndef PAGODA_CPU_KERNELS_H
#define PAGODA_CPU_KERNELS_H

#include <stdint.h>

#include "../backend.h"
#include "attention-schedule.h"
#include "mla-pass.h"

namespace pagoda {

class ThreadPool;

// What a kernel may use besides its operands.
struct KernelContext {
  ThreadPool* pool;
  void* scratch;  // as many bytes as the kernel's scratch function asked for, aligned to 64; contents undefined
};

// Parameters are checked before a kernel is called (validate.h); kernels cannot fail.
struct KernelTable {
  const char* isa;
  // Outputs a panel of a packed matrix. [rows, cols] is stored as [panel][col][panelWidth] in f32 and f16, as
  // [panel][col pair][panelWidth][2] in bf16, absent outputs and the column that completes a pair being zero. Quantised
  // ones: packed-format.h.
  int32_t panelWidth;
  // Of Q8_0: what is added to a code, so that it is a byte as the dot instruction wants it; 0 (signed) or 128
  // (unsigned).
  int32_t byteOffset;

  // All in bytes.
  uint64_t (*linearScratch)(const PagodaLinear& op, int32_t threads);
  uint64_t (*attentionScratch)(const PagodaAttention& op, const AttentionSchedule& schedule, int32_t threads);
  uint64_t (*mlaAttentionScratch)(const PagodaMlaAttention& op, const MlaPass& pass, const AttentionSchedule& schedule,
                                  int32_t threads);
  uint64_t (*routeScratch)(const PagodaRoute& op, int32_t threads);
  uint64_t (*expertsScratch)(const PagodaExperts& op, int32_t threads);

  void (*embed)(const KernelContext& context, const PagodaEmbed& op);
  void (*rmsNorm)(const KernelContext& context, const PagodaRmsNorm& op);
  void (*linear)(const KernelContext& context, const PagodaLinear& op);
  void (*rope)(const KernelContext& context, const PagodaRope& op);
  void (*cacheWrite)(const KernelContext& context, const PagodaCacheWrite& op);
  void (*copyBlocks)(const KernelContext& context, const PagodaCopyBlocks& op);
  void (*attention)(const KernelContext& context, const PagodaAttention& op, const AttentionSchedule& schedule);
  void (*latentWrite)(const KernelContext& context, const PagodaLatentWrite& op);
  void (*mlaAttention)(const KernelContext& context, const PagodaMlaAttention& op, const MlaPass& pass,
                       const AttentionSchedule& schedule);
  void (*gatherKv)(const KernelContext& context, const PagodaGatherKv& op);
  void (*gatedActivation)(const KernelContext& context, const PagodaGatedActivation& op);
  void (*add)(const KernelContext& context, const PagodaAdd& op);
  void (*route)(const KernelContext& context, const PagodaRoute& op);
  void (*experts)(const KernelContext& context, const PagodaExperts& op);
  void (*takeRows)(const KernelContext& context, const PagodaTakeRows& op);

  // Rounds the floats of one block to a type that canQuantize (block-codec.h); the same bytes on all instruction sets.
  void (*quantizeBlock)(PagodaDtype dtype, const float* values, void* block);
};

// Element (row, col) of a packed matrix.
static inline int64_t matrixIndex(const PagodaWeight& weight, int32_t panelWidth, int32_t row, int32_t col) {
  const int64_t pair = weight.dtype == PAGODA_BF16 ? 2 : 1;
  const int64_t steps = (weight.cols + pair - 1) / pair;
  return (((row / panelWidth) * steps + col / pair) * panelWidth + row % panelWidth) * pair + col % pair;
}

}  // namespace pagoda

#endif
