// Causal paged attention over a ragged batch, as tiled flash attention (flash-attention.h).
//
// K and V in bf16 are multiplied in bf16 where the processor has instructions for it. Queries and softmax weights are
// then rounded to bf16, too: the one moves a score by 2^-8 of the sum of |q k| at most, the other an output by 2^-8 of
// the largest |v|. Otherwise all products are f32. Codes of an int8 cache are multiplied like bf16, which they are
// exactly; scores and weights then take the scales of their keys.
//
// Block ids are trusted.
#include "flash-attention.h"

namespace pagoda::PAGODA_ISA {

uint64_t attentionScratch(const PagodaAttention& op, const AttentionSchedule& schedule, int32_t threads) {
  const Shape shape = shapeOf(op, schedule);
  return sizeof(float) * (threads * scratchFloats(shape) + stateFloats(shape, schedule.numStateRows));
}

void attention(const KernelContext& context, const PagodaAttention& op, const AttentionSchedule& schedule) {
  if (op.batch.numTokens == 0) return;
  switch (op.cache.dtype) {
    case PAGODA_BF16:
      return attend<Bf16Products>(context, op, schedule, HeadCache<uint16_t>{op.cache, nullptr, 0, 0});
    case PAGODA_INT8:
      return attend<Bf16Products>(context, op, schedule, HeadCache<int8_t>{op.cache, nullptr, 0, 0});
    default:
      return attend<FloatProducts>(context, op, schedule, HeadCache<float>{op.cache, nullptr, 0, 0});
  }
}

}  // namespace pagoda::PAGODA_ISA
