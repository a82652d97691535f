// What the kernel files of one instruction set offer to its table, and the helpers that they share.
// Files that include this are compiled once per instruction set: no standard containers or algorithms in them.
#ifndef PAGODA_CPU_ISA_KERNELS_H
#define PAGODA_CPU_ISA_KERNELS_H

#include "kernels.h"
#include "simd.h"
#include "threads.h"

namespace pagoda::PAGODA_ISA {

uint64_t linearScratch(const PagodaLinear& op, int32_t threads);
uint64_t attentionScratch(const PagodaAttention& op, const AttentionSchedule& schedule, int32_t threads);
uint64_t mlaAttentionScratch(const PagodaMlaAttention& op, const MlaPass& pass, const AttentionSchedule& schedule,
                             int32_t threads);
uint64_t routeScratch(const PagodaRoute& op, int32_t threads);
uint64_t expertsScratch(const PagodaExperts& op, int32_t threads);

void embed(const KernelContext& context, const PagodaEmbed& op);
void rmsNorm(const KernelContext& context, const PagodaRmsNorm& op);
void linear(const KernelContext& context, const PagodaLinear& op);
void rope(const KernelContext& context, const PagodaRope& op);
void cacheWrite(const KernelContext& context, const PagodaCacheWrite& op);
void copyBlocks(const KernelContext& context, const PagodaCopyBlocks& op);
void attention(const KernelContext& context, const PagodaAttention& op, const AttentionSchedule& schedule);
void latentWrite(const KernelContext& context, const PagodaLatentWrite& op);
void mlaAttention(const KernelContext& context, const PagodaMlaAttention& op, const MlaPass& pass,
                  const AttentionSchedule& schedule);
void gatherKv(const KernelContext& context, const PagodaGatherKv& op);
void gatedActivation(const KernelContext& context, const PagodaGatedActivation& op);
void add(const KernelContext& context, const PagodaAdd& op);
void route(const KernelContext& context, const PagodaRoute& op);
void experts(const KernelContext& context, const PagodaExperts& op);
void takeRows(const KernelContext& context, const PagodaTakeRows& op);
void quantizeBlock(PagodaDtype dtype, const float* values, void* block);

namespace {

constexpr int32_t kPanelVectors = 4;
constexpr int32_t kPanelWidth = kPanelVectors * kLanes;

constexpr int32_t minimum(int32_t a, int32_t b) { return a < b ? a : b; }
constexpr int32_t maximum(int32_t a, int32_t b) { return a > b ? a : b; }
inline int64_t ceilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t roundUp(int64_t a, int64_t b) { return ceilDiv(a, b) * b; }

inline float* rowOf(const PagodaTensor& tensor, int64_t row) {
  return static_cast<float*>(tensor.data) + row * tensor.rowStride;
}

// Runs body(begin, end, worker) over [0, items) on the pool.
template <class Body>
void parallel(ThreadPool* pool, int32_t items, int32_t chunk, Body& body) {
  pool->run(
      items, chunk,
      [](void* context, int32_t begin, int32_t end, int32_t worker) {
        (*static_cast<Body*>(context))(begin, end, worker);
      },
      &body);
}

// Runs body(row) over rows that cost about `width` elements each; few elements stay on the calling thread.
template <class Body>
void parallelRows(ThreadPool* pool, int32_t rows, int64_t width, Body body) {
  constexpr int64_t kChunkElements = 8192;
  const int64_t chunk = ceilDiv(kChunkElements, width > 0 ? width : 1);
  auto range = [&](int32_t begin, int32_t end, int32_t) {
    for (int32_t row = begin; row < end; ++row) body(row);
  };
  parallel(pool, rows, static_cast<int32_t>(chunk), range);
}

// Runs body(offset, n) over [0, width) in steps of one vector, n <= kLanes.
template <class Body>
PAGODA_INLINE void forVectors(int32_t width, Body body) {
  int32_t i = 0;
  for (; i + kLanes <= width; i += kLanes) body(i, kLanes);
  if (i < width) body(i, width - i);
}

// Calls body(firstRow, rows) over even blocks of at most `most` rows.
template <class Body>
PAGODA_INLINE void forRowBlocks(int32_t rows, int32_t most, Body body) {
  const int32_t blocks = static_cast<int32_t>(ceilDiv(rows, most));
  int32_t first = 0;
  for (int32_t i = 0; i < blocks; ++i) {
    const int32_t n = rows / blocks + (i < rows % blocks ? 1 : 0);
    body(first, n);
    first += n;
  }
}

}  // namespace
}  // namespace pagoda::PAGODA_ISA

#endif
