// What the attention kernels share: which rows a block works on, what a row sees, and how partial results are merged.
//
// The rows of a request are packed: row i is token i / group and head i % group of those that share a KV head, so that
// a tile of rows reads its keys once. Keys are cut into splits at fixed positions. The splits of a row are always
// merged in order, whether one block went through them or several did, so a row's bits do not depend on how a batch was
// scheduled.
#pragma once

#include "kv-cache.cuh"

namespace pagoda::cuda {

constexpr int kSplitKeys = 512;
constexpr int kLongSplit = 1024;  // of the kernels by wgmma

/// Rows [first, first + count) of the packed rows of a request.
struct QueryTile {
  int32_t request;
  int32_t first;
  int32_t count;
  int32_t firstToken;  // of the request, in the batch
  int32_t position;    // of the request's first token
};

/// Tiles that a batch needs at most: request r has the tiles from queryStartLoc[r] * group / rows + r on, which are
/// enough for its rows and are no other's.
__host__ __device__ constexpr int64_t maxQueryTiles(int64_t tokens, int64_t requests, int64_t group, int64_t rows) {
  return tokens * group / rows + requests;
}

__device__ __forceinline__ int firstTileOf(const PagodaBatch& batch, int request, int group, int rows) {
  return static_cast<int>(static_cast<int64_t>(batch.queryStartLoc[request]) * group / rows) + request;
}

/// Tile `index` of the batch; count <= 0 where there is none. All threads look for its request at once; `found` is
/// shared.
__device__ inline QueryTile findTile(const PagodaBatch& batch, int index, int group, int rows, int32_t* found) {
  for (int r = threadIdx.x; r < batch.numRequests; r += blockDim.x) {
    const bool isBehind = r + 1 < batch.numRequests && firstTileOf(batch, r + 1, group, rows) <= index;
    if (firstTileOf(batch, r, group, rows) <= index && !isBehind) *found = r;
  }
  __syncthreads();
  const int request = *found;
  const int first = (index - firstTileOf(batch, request, group, rows)) * rows;
  const int firstToken = batch.queryStartLoc[request], tokens = batch.queryStartLoc[request + 1] - firstToken;
  return {request, first, min(rows, tokens * group - first), firstToken, batch.seqLens[request] - tokens};
}

/// The positions that a token sees: [first, end).
struct Visible {
  int32_t first, end;
};

__device__ __forceinline__ Visible visibleFrom(int position, int slidingWindow) {
  return {slidingWindow > 0 ? max(0, position - slidingWindow + 1) : 0, position + 1};
}

/// A tile of the query heads of one KV head.
struct GroupTile {
  QueryTile tile;
  int kvHead;
  int group;     // query heads of a KV head
  Visible keys;  // that any of the rows sees

  __device__ GroupTile(const PagodaAttention& op, const QueryTile& rows, int head)
      : tile(rows), kvHead(head), group(op.numHeads / op.cache.numKvHeads), keys{0, 0} {
    if (tile.count <= 0) return;
    keys = {visible(0, op.slidingWindow).first, visible(tile.count - 1, op.slidingWindow).end};
  }

  __device__ int token(int row) const { return (tile.first + row) / group; }
  __device__ int head(int row) const { return kvHead * group + (tile.first + row) % group; }
  __device__ Visible visible(int row, int window) const { return visibleFrom(tile.position + token(row), window); }
};

/// Rows of a request for each of its KV heads.
__device__ __forceinline__ int packedRows(const PagodaAttention& op, int request) {
  const int tokens = op.batch.queryStartLoc[request + 1] - op.batch.queryStartLoc[request];
  return tokens * (op.numHeads / op.cache.numKvHeads);
}

/// The running softmax of a row without its weighted sum: the largest score, and the sum of exp(score - largest).
struct SoftmaxState {
  float largest = -kInfinity;
  float sum = 0.0f;
};

/// By how much the weighted sums of two states count once they are one.
struct MergeFactors {
  float first, second;
};

/// Takes `other`, which comes later, into `state`. An empty one changes nothing, to the bit.
__device__ __forceinline__ MergeFactors merge(SoftmaxState& state, const SoftmaxState& other) {
  if (other.largest == -kInfinity) return {1.0f, 0.0f};
  if (state.largest == -kInfinity) {
    state = other;
    return {0.0f, 1.0f};
  }
  const float largest = fmaxf(state.largest, other.largest);
  const MergeFactors factors = {expf(state.largest - largest), expf(other.largest - largest)};
  state = {largest, fmaf(state.sum, factors.first, other.sum * factors.second)};
  return factors;
}

__device__ __forceinline__ float mergeSums(float first, float second, const MergeFactors& factors) {
  return fmaf(first, factors.first, second * factors.second);
}

/// What a weighted sum is multiplied with at the end; a sink takes its share of the softmax.
__device__ __forceinline__ float finalFactor(const SoftmaxState& state, float sink) {
  const float largest = fmaxf(state.largest, sink);
  const float weight = expf(state.largest - largest);
  return weight / fmaf(state.sum, weight, expf(sink - largest));
}

__device__ __forceinline__ float sinkOf(const PagodaWeight& sinks, int head) {
  return sinks.data == nullptr ? -kInfinity : vectorOf(sinks)[head];
}

/// Where the splits of rows leave what they found.
struct Partials {
  float* sums;           // [splits, rows, dim]
  SoftmaxState* states;  // [splits, rows]
};

/// Partials in the scratch memory of the device.
PagodaStatus reservePartials(PagodaDevice* device, int32_t splits, int64_t rows, int32_t dim, Partials* partials,
                             PagodaError* error);

/// Splits [first, end).
struct SplitRange {
  int32_t first, end;
};

/// The splits that have keys which a token at `position` sees.
__device__ __forceinline__ SplitRange splitsSeen(int position, int slidingWindow, int splitKeys) {
  const Visible keys = visibleFrom(position, slidingWindow);
  return {keys.first / splitKeys, static_cast<int32_t>(ceilDivide(keys.end, splitKeys))};
}

/// A warp merges the splits of a row in order and writes the result: split s is at index row + s * rows of the
/// partials.
__device__ inline void combineRow(const Partials& partials, int64_t row, int64_t rows, const SplitRange& splits,
                                  int dim, float sink, float* out) {
  constexpr int kColumns = 4;  // of a lane at a time
  for (int start = 0; start < dim; start += kWarp * kColumns) {
    SoftmaxState state;
    float sums[kColumns] = {};
    for (int split = splits.first; split < splits.end; ++split) {
      const SoftmaxState other = partials.states[split * rows + row];
      if (other.largest == -kInfinity) continue;  // its sums were not written
      const float* from = partials.sums + (split * rows + row) * dim;
      const MergeFactors factors = merge(state, other);
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        const int column = start + i * kWarp + laneOf();
        if (column < dim) sums[i] = mergeSums(sums[i], from[column], factors);
      }
    }
    const float factor = finalFactor(state, sink);
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      const int column = start + i * kWarp + laneOf();
      if (column < dim) out[column] = sums[i] * factor;
    }
  }
}

/// Merges the splits of every row that it sees keys of; partials are [split, token, head].
struct Combining {
  PagodaAttention op;
  Partials partials;
  int32_t splitKeys;
};

/// Merges the splits of the requests that have at most `rows` rows for a KV head; partials are [split, request, KV
/// head, rows].
struct DecodeCombining {
  PagodaAttention op;
  Partials partials;
  int32_t rows;
  int32_t splitKeys;
};

/// Columns of a row of V: of a latent cache, V is the latent of the row itself.
__host__ __device__ __forceinline__ int valueDim(const PagodaKvCache& cache) {
  return cache.latentDim > 0 ? cache.latentDim : cache.headDim;
}

/// Attention of any kind of cache: with a latent one, `query` is [T, numHeads * headDim] and `out` [T, numHeads *
/// latentDim].
PagodaStatus attend(PagodaDevice* device, const PagodaAttention& op, PagodaError* error);

/// Heads that the tensor cores are worth it for, and can take: 64 to 256 columns in whole groups of 8.
constexpr bool isWideEnough(int32_t headDim) { return headDim >= 64 && headDim <= 256 && headDim % 8 == 0; }

/// Whether the kernels on the tensor cores take this: bf16 caches with such heads, int8 caches with such heads of whole
/// groups of 16.
bool canAttendByMma(const PagodaDevice& device, const PagodaAttention& op);
PagodaStatus attendByMma(PagodaDevice* device, const PagodaAttention& op, PagodaError* error);

/// The same of bf16 caches on GPUs with wgmma, for pages of whole groups of 8 keys.
bool canAttendByWgmma(const PagodaDevice& device, const PagodaAttention& op);
PagodaStatus attendByWgmma(PagodaDevice* device, const PagodaAttention& op, PagodaError* error);

/// The same of bf16 and int8 latent caches with rows of 576 columns, 512 of them the latent.
bool canAttendLatents(const PagodaDevice& device, const PagodaAttention& op);
PagodaStatus attendLatents(PagodaDevice* device, const PagodaAttention& op, PagodaError* error);

/// The same of bf16 caches on GPUs with wgmma, where pages are whole groups of eight keys.
bool canAttendLatentsByWgmma(const PagodaDevice& device, const PagodaAttention& op);
PagodaStatus attendLatentsByWgmma(PagodaDevice* device, const PagodaAttention& op, PagodaError* error);

PagodaStatus combineSplits(PagodaDevice* device, const Combining& combining, PagodaError* error);
PagodaStatus combineDecode(PagodaDevice* device, const DecodeCombining& combining, PagodaError* error);

}  // namespace pagoda::cuda
