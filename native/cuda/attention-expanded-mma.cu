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
constexpr int kNopeColumns = 128;  // of a key in shared memory; the rope part is behind them

struct Parameters {
  PagodaAttention op;  // as if its cache had a KV head of valueDim columns for each query head
  PagodaMlaAttention source;
  RequestTokens request;
  ExpandedKeys keys;
  SoftmaxState* states;  // [tokens, heads]

  __device__ int nopeDim() const { return source.query.width / source.numHeads; }
  __device__ int ropeDim() const { return source.cache.headDim - source.cache.latentDim; }
  __device__ int valueDim() const { return op.cache.headDim; }
};

struct Shared {
  KeysAndValues<S> stages[kStages];
  uint16_t query[kWarps][kWarpRows][S::kDim];
};
static_assert(sizeof(Shared) <= 99 * 1024);

/// Queues the copies of a tile of K and V, zeros where no row sees them and behind the columns: a warp takes a key at a
/// time.
__device__ void loadTile(const Parameters& p, const GroupTile& work, KeysAndValues<S>& tile, int first) {
  constexpr int kNopeChunks = kNopeColumns / 8, kRopeChunks = (S::kDim - kNopeColumns) / 8;
  const PagodaKvCache& cache = p.source.cache;
  const int32_t* blocks =
      p.source.batch.blockTable + static_cast<int64_t>(p.request.request) * p.source.batch.maxBlocks;
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

__device__ WarpRows<S> rowsOf(const Parameters& p, const GroupTile& work, uint16_t* query) {
  return WarpRows<S>(p.op, work, query, [&](int row, int column) -> const float* {
    const bool isRope = column >= kNopeColumns;
    const int dim = isRope ? p.ropeDim() : p.nopeDim(), own = isRope ? column - kNopeColumns : column;
    if (own >= dim) return nullptr;
    const float* heads = rowOf(isRope ? p.source.queryRope : p.source.query, work.tile.firstToken + work.token(row));
    return heads + static_cast<int64_t>(work.head(row)) * dim + own;
  });
}

__global__ void __launch_bounds__(kThreads) attentionExpandedMmaKernel(const Parameters p) {
  constexpr int kRows = kWarps * kWarpRows;
  auto& shared = sharedMemory<Shared>();
  const int first = kRows * static_cast<int>(gridDim.x - 1 - blockIdx.x);  // those with the most keys first
  const RequestTokens& request = p.request;
  const QueryTile tile = {0, first, min(kRows, request.tokens - first), request.firstToken,
                          request.end - request.tokens};
  const GroupTile work(p.op, tile, static_cast<int>(blockIdx.y));
  const int end = min(p.keys.end, work.keys.end);
  if (p.keys.first >= end) return;
  WarpRows<S> rows = rowsOf(p, work, shared.query[warpOf()][0]);
  const auto stateOf = [&](int i) {
    return p.states + static_cast<int64_t>(work.token(rows.row(i))) * p.op.numHeads + work.head(rows.row(i));
  };
  SoftmaxState totals[2];
#pragma unroll
  for (int i = 0; i < 2; ++i)
    if (p.keys.first > 0 && rows.isPresent(i)) totals[i] = *stateOf(i);
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
      if (laneOf() % 4 == 0) *stateOf(i) = totals[i];
    } else {
      const float factor = finalFactor(totals[i], -kInfinity);
      forTotals(p.op, work, rows, i, nullptr, 0, [&](float& total, float& out, int) { out = total * factor; });
    }
  }
}

}  // namespace

PagodaStatus attendExpandedKeysByMma(PagodaDevice* device, const PagodaMlaAttention& op, const RequestTokens& request,
                                     const ExpandedKeys& keys, SoftmaxState* states, PagodaError* error) {
  const PagodaKvCache heads = {nullptr, 1, 1, op.numHeads, op.out.width / op.numHeads, PAGODA_BF16, 0};
  const PagodaAttention attention = {op.out, op.query, heads, op.batch, op.numHeads, op.scale, 0, 0.0f, {}};
  const Parameters p = {attention, op, request, keys, states};
  const auto tiles = static_cast<unsigned>(ceilDivide(request.tokens, kWarps * kWarpRows));
  const LaunchShape shape = {dim3(tiles, op.numHeads), dim3(kThreads), sizeof(Shared)};
  return check(launch(attentionExpandedMmaKernel, shape, device->stream, p), "mlaAttention", error);
}

}  // namespace pagoda::cuda
