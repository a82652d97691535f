// Attention of one request to keys and values that were made of its latents, by m16n8k16 steps: keys of up to 128 + 64
// columns, values of up to 128, copied from the workspace; the rope part of a key comes out of the pages of the latent
// cache. A block has 64 tokens of a head. Sums of rows that more keys follow wait in the result, their states in device
// memory.
#include "attention-warps.cuh"
#include "mla-attention.cuh"

namespace pagoda::cuda {
namespace {

using S = Shape<192, 128>;
static_assert(S::kIsWide, "sums wait in the result");
constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kNopeColumns = ExpandedAttention::kNopeColumns;

struct Shared {
  KeysAndValues<S> stages[kStages];
  uint16_t query[kWarps][kWarpRows][S::kDim];
};
static_assert(sizeof(Shared) <= 99 * 1024);

/// Queues the copies of a tile of K and V, zeros where no row sees them and behind the columns: a warp takes a key at a
/// time.
__device__ void loadTile(const ExpandedAttention& p, const GroupTile& work, KeysAndValues<S>& tile, int first) {
  constexpr int kNopeChunks = kNopeColumns / 8, kRopeChunks = (S::kDim - kNopeColumns) / 8;
  const PagodaKvCache& cache = p.source.cache;
  const int32_t* blocks = p.blocks();
  const int chunk = laneOf() % kNopeChunks, ropeChunk = laneOf() % kRopeChunks;
  for (int key = warpOf(); key < S::kKeys; key += kWarps) {
    const int position = first + key;
    const bool isSeen = position < work.keys.end;
    const int64_t row = isSeen ? static_cast<int64_t>(position - p.keys.first) * p.op.numHeads + work.kvHead : 0;
    if (laneOf() < kNopeChunks) {
      const bool isPresent = isSeen && 8 * chunk < p.nopeDim();
      copyAsync16(&tile.keys[key][swizzled(key, chunk)], p.keys.keys + row * p.nopeDim() + (isPresent ? 8 * chunk : 0),
                  isPresent ? 16 : 0);
    } else {
      const bool isPresent = isSeen && 8 * chunk < p.valueDim();
      copyAsync16(&tile.values[key][swizzled(key, chunk)],
                  p.keys.values + row * p.valueDim() + (isPresent ? 8 * chunk : 0), isPresent ? 16 : 0);
    }
    if (laneOf() < kRopeChunks) {
      const bool isPresent = isSeen && 8 * ropeChunk < p.ropeDim();
      const int64_t slot = isSeen ? slotOf(blocks, position, cache.blockSize) : 0;
      const uint16_t* ropeKey = static_cast<const uint16_t*>(cache.data) + slot * cache.headDim + cache.latentDim;
      copyAsync16(&tile.keys[key][swizzled(key, kNopeChunks + ropeChunk)], ropeKey + (isPresent ? 8 * ropeChunk : 0),
                  isPresent ? 16 : 0);
    }
  }
}

__global__ void __launch_bounds__(kThreads) attentionExpandedMmaKernel(const ExpandedAttention p) {
  constexpr int kRows = kWarps * kWarpRows;
  auto& shared = sharedMemory<Shared>();
  const int index = gridDim.x - 1 - blockIdx.x;  // those with the most keys first
  const GroupTile work(p.op, p.tile(index, kRows), static_cast<int>(blockIdx.y));
  const int end = min(p.keys.end, work.keys.end);
  if (p.keys.first >= end) return;
  WarpRows<S> rows(p.op, work, shared.query[warpOf()][0],
                   [&](int row, int column) { return p.queryAt(work, row, column); });
  SoftmaxState totals[2];
#pragma unroll
  for (int i = 0; i < 2; ++i)
    if (p.keys.first > 0 && rows.isPresent(i)) totals[i] = *p.stateOf(work, rows.row(i));
  for (int split = p.keys.first / kSplitKeys; split * kSplitKeys < end; ++split) {
    runSplit(
        work, split, rows, [&](int stage, int from) { loadTile(p, work, shared.stages[stage], from); },
        [&](int stage) -> const KeysAndValues<S>& { return shared.stages[stage]; });
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const MergeFactors factors = merge(totals[i], rows.state[i]);
      forTotals(p.op, work, rows, i, nullptr, 0, [&](float& total, float&, int element) {
        total = mergeSums(split == 0 ? 0.0f : total, rows.sums[element], factors);
      });
    }
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (!rows.isPresent(i)) continue;
    if (work.keys.end > p.keys.end) {
      if (laneOf() % 4 == 0) *p.stateOf(work, rows.row(i)) = totals[i];
    } else {
      const float factor = finalFactor(totals[i], -kInfinity);
      forTotals(p.op, work, rows, i, nullptr, 0, [&](float& total, float& out, int) { out = total * factor; });
    }
  }
}

}  // namespace

PagodaStatus attendExpandedKeysByMma(PagodaDevice* device, const ExpandedAttention& attention, PagodaError* error) {
  const auto tiles = static_cast<unsigned>(ceilDivide(attention.request.tokens, kWarps * kWarpRows));
  const LaunchShape shape = {dim3(tiles, attention.op.numHeads), dim3(kThreads), sizeof(Shared)};
  return check(launch(attentionExpandedMmaKernel, shape, device->stream, attention), "mlaAttention", error);
}

}  // namespace pagoda::cuda
