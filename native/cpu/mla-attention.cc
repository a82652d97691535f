// Multi-head latent attention. The expanded form: mla-expanded.cc.
//
// The absorbed form moves W_UK and W_UV to the other side of the products, so that all heads of a token attend to the
// same rows [latent | rope key] and are rows of one tile: each row of the cache is read once, as K and as V
// (latent-tile.h). Queries become latent ones before, and sums of latents become outputs after it, by a linear for each
// head. Both lie in one workspace: a query tile has read its queries before its outputs are stored in their place.
//
// Types of products are those of attention (attention.cc); rows of an int8 cache are dequantised as they are gathered.
#include "flash-attention.h"
#include "latent-tile.h"
#include "mla-expanded.h"
#include "per-head-linear.h"

namespace pagoda::PAGODA_ISA {
namespace {

int32_t nopeHeadDim(const PagodaMlaAttention& op) { return op.query.width / op.numHeads; }
int32_t valueHeadDim(const PagodaMlaAttention& op) { return op.out.width / op.numHeads; }
int32_t ropeHeadDim(const PagodaMlaAttention& op) { return op.cache.headDim - op.cache.latentDim; }

uint64_t largest(uint64_t a, uint64_t b, uint64_t c) {
  const uint64_t ab = a > b ? a : b;
  return ab > c ? ab : c;
}

HeadRows headRows(const PagodaTensor& tensor, int32_t headDim, const int32_t* rows) {
  return {static_cast<float*>(tensor.data), tensor.rowStride, headDim, rows};
}

// ---- the absorbed form -----------------------------------------------------------------------------

struct AbsorbedMemory {
  float* latents;  // [tokens, heads, latentDim + ropeDim]: queries, then outputs
  void* work;      // of one step at a time: of a linear per head, or of attention
  uint64_t bytes;
};

AbsorbedMemory layOut(const PagodaMlaAttention& op, const MlaPass& pass, const AttentionSchedule& schedule,
                      int32_t threads, void* memory) {
  const int32_t tokens = pass.batch.numTokens;
  const int64_t latents = roundUp(sizeof(float) * tokens * static_cast<int64_t>(op.numHeads) * op.cache.headDim, 64);
  const uint64_t queries = linearPerHeadScratch(op.keyUp, op.numHeads, tokens, threads);
  const uint64_t outputs = linearPerHeadScratch(op.valueUp, op.numHeads, tokens, threads);
  const uint64_t attention = attentionScratch(absorbedAttention(op, pass), schedule, threads);
  const uint64_t work = largest(queries, outputs, attention);
  return {static_cast<float*>(memory), static_cast<char*>(memory) + latents, latents + work};
}

// latents = [W_UK^T query | queryRope]
void absorbQueries(const KernelContext& work, const PagodaMlaAttention& op, const MlaPass& pass,
                   const HeadRows& latents) {
  const int32_t tokens = pass.batch.numTokens;
  linearPerHead(work, op.keyUp, op.numHeads, tokens, headRows(op.query, nopeHeadDim(op), pass.rows), latents);
  const HeadRows rope = headRows(op.queryRope, ropeHeadDim(op), pass.rows);
  parallelRows(work.pool, tokens, op.queryRope.width, [&](int32_t row) {
    for (int32_t head = 0; head < op.numHeads; ++head) {
      const float* from = rope.at(row, head);
      float* to = latents.at(row, head) + op.cache.latentDim;
      forVectors(ropeHeadDim(op), [&](int32_t i, int n) { storeSome(to + i, loadSome(from + i, n), n); });
    }
  });
}

void attendAbsorbed(const KernelContext& context, const PagodaAttention& op, const AttentionSchedule& schedule) {
  switch (op.cache.dtype) {
    case PAGODA_BF16:
      return attend<Bf16Products>(context, op, schedule, LatentCache<uint16_t>{op.cache, nullptr, 0, 0});
    case PAGODA_INT8:
      return attend<Bf16Products>(context, op, schedule, LatentCache<int8_t>{op.cache, nullptr, 0, 0});
    default:
      return attend<FloatProducts>(context, op, schedule, LatentCache<float>{op.cache, nullptr, 0, 0});
  }
}

void runAbsorbed(const KernelContext& context, const PagodaMlaAttention& op, const MlaPass& pass,
                 const AttentionSchedule& schedule) {
  const AbsorbedMemory memory = layOut(op, pass, schedule, context.pool->threads(), context.scratch);
  const KernelContext work = {context.pool, memory.work};
  const int32_t tokens = pass.batch.numTokens, latentDim = op.cache.latentDim;
  const int64_t width = static_cast<int64_t>(op.numHeads) * op.cache.headDim;
  absorbQueries(work, op, pass, {memory.latents, width, op.cache.headDim});
  PagodaAttention absorbed = absorbedAttention(op, pass);
  absorbed.query = {memory.latents, tokens, static_cast<int32_t>(width), width, PAGODA_F32};
  absorbed.out = {memory.latents, tokens, op.numHeads * latentDim, width, PAGODA_F32};
  attendAbsorbed(work, absorbed, schedule);
  linearPerHead(work, op.valueUp, op.numHeads, tokens, {memory.latents, width, latentDim},
                headRows(op.out, valueHeadDim(op), pass.rows));
}

}  // namespace

uint64_t mlaAttentionScratch(const PagodaMlaAttention& op, const MlaPass& pass, const AttentionSchedule& schedule,
                             int32_t threads) {
  if (pass.isExpanded) return mlaExpandedScratch(op, pass, threads);
  return layOut(op, pass, schedule, threads, nullptr).bytes;
}

void mlaAttention(const KernelContext& context, const PagodaMlaAttention& op, const MlaPass& pass,
                  const AttentionSchedule& schedule) {
  if (pass.isExpanded) return mlaExpanded(context, op, pass);
  runAbsorbed(context, op, pass, schedule);
}

}  // namespace pagoda::PAGODA_ISA
