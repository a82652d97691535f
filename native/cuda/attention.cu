// Paged attention in f32 arithmetic, for every head size and type of cache: a block has a tile of packed rows of one KV
// head and goes through the keys that they see, a tile of keys at a time (online softmax, arXiv:1805.02867,
// arXiv:2205.14135).
#include "attention.cuh"

namespace pagoda::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kRows = 16;
constexpr int kKeys = 32;  // of a tile: one a lane
constexpr int kWarpRows = kRows / (kThreads / kWarp);

struct Parameters {
  PagodaAttention op;
  Partials partials;  // where blocks take one split each
  int32_t splits;     // of a block's grid: 1 where a block takes all of them
};

/// Shared memory for heads of `dim` columns.
struct Memory {
  float* query;    // [kRows][dim]
  float* keys;     // [kKeys][stride], then the values
  float* weights;  // [kRows][kKeys]
  int32_t* found;
  int stride;  // odd, so that lanes read different banks

  static __host__ __device__ int64_t words(int dim) { return kRows * dim + kKeys * (dim | 1) + kRows * kKeys + 1; }

  __device__ Memory(float* base, int dim) : query(base), stride(dim | 1) {
    keys = query + kRows * dim;
    weights = keys + kKeys * stride;
    found = reinterpret_cast<int32_t*>(weights + kRows * kKeys);
  }
};

size_t sharedBytes(const PagodaKvCache& cache) { return Memory::words(cache.headDim) * sizeof(float); }

/// What a block does: rows of a tile, for one KV head.
struct Work {
  QueryTile tile;
  int kvHead;
  int group;  // query heads of a KV head
  int end;    // the last position that any row sees, + 1
  int first;  // the first one

  __device__ int token(int row) const { return (tile.first + row) / group; }
  __device__ int head(int row) const { return kvHead * group + (tile.first + row) % group; }
  __device__ Visible visible(int row, int window) const { return visibleFrom(tile.position + token(row), window); }
};

__device__ void loadQuery(const PagodaAttention& op, const Work& work, const Memory& memory) {
  const int dim = op.cache.headDim;
  for (int row = warpOf(); row < kRows; row += kThreads / kWarp) {
    const bool isPresent = row < work.tile.count;
    const float* query =
        isPresent ? rowOf(op.query, work.tile.firstToken + work.token(row)) + static_cast<int64_t>(work.head(row)) * dim
                  : nullptr;
    for (int i = laneOf(); i < dim; i += kWarp) memory.query[row * dim + i] = isPresent ? query[i] : 0.0f;
  }
}

/// K (part 0) or V (part 1) of the keys from `first` on; zeros where no row sees them, since those may hold anything.
/// The scale of int8 changes behind the latent.
template <PagodaDtype kDtype>
__device__ void loadKeys(const PagodaAttention& op, const Work& work, const Memory& memory, const KvLayout& layout,
                         int first, int part) {
  const int dim = op.cache.headDim;
  const int32_t* blocks = op.batch.blockTable + static_cast<int64_t>(work.tile.request) * op.batch.maxBlocks;
  for (int key = warpOf(); key < kKeys; key += kThreads / kWarp) {
    float* to = memory.keys + key * memory.stride;
    const int position = first + key;
    if (position < work.first || position >= work.end) {
      for (int i = laneOf(); i < dim; i += kWarp) to[i] = 0.0f;
      continue;
    }
    const KvVector from = kvVector(op.cache, layout, slotOf(blocks, position, op.cache.blockSize), part, work.kvHead);
    const int latentDim = op.cache.latentDim;
    const float scales[2] = {kvScale<kDtype>(from), latentDim > 0 ? kvScale<kDtype>(from, 1) : 0.0f};
    for (int i = laneOf(); i < dim; i += kWarp)
      to[i] = kvElement<kDtype>(from, i, latentDim > 0 && i >= latentDim ? scales[1] : scales[0]);
  }
}

/// Scores of the warp's rows with the lane's key; -Inf where a row does not see it.
__device__ void scoreKeys(const PagodaAttention& op, const Work& work, const Memory& memory, int first,
                          float (&scores)[kWarpRows]) {
  const int dim = op.cache.headDim;
  const float* key = memory.keys + laneOf() * memory.stride;
  const float* query = memory.query + warpOf() * kWarpRows * dim;
  float dots[kWarpRows] = {};
  for (int i = 0; i < dim; ++i) {
#pragma unroll
    for (int r = 0; r < kWarpRows; ++r) dots[r] = fmaf(query[r * dim + i], key[i], dots[r]);
  }
#pragma unroll
  for (int r = 0; r < kWarpRows; ++r) {
    const int row = warpOf() * kWarpRows + r, position = first + laneOf();
    const Visible visible = work.visible(row, op.slidingWindow);
    float score = dots[r] * op.scale;
    if (op.softcap > 0.0f) score = op.softcap * tanhf(score / op.softcap);
    const bool isSeen = row < work.tile.count && position >= visible.first && position < visible.end;
    scores[r] = isSeen ? score : -kInfinity;
  }
}

/// Takes the scores of a tile of keys into the warp's states; leaves their weights in shared memory, and returns by how
/// much the sums so far count.
__device__ void updateStates(const Memory& memory, const float (&scores)[kWarpRows], SoftmaxState (&states)[kWarpRows],
                             float (&factors)[kWarpRows]) {
#pragma unroll
  for (int r = 0; r < kWarpRows; ++r) {
    const float largest = fmaxf(states[r].largest, warpMax(scores[r]));
    const float weight = largest == -kInfinity ? 0.0f : expf(scores[r] - largest);
    factors[r] = states[r].largest == largest ? 1.0f : expf(states[r].largest - largest);
    states[r] = {largest, fmaf(states[r].sum, factors[r], warpSum(weight))};
    memory.weights[(warpOf() * kWarpRows + r) * kKeys + laneOf()] = weight;
  }
}

/// Weighted sums of the warp's rows: a lane has the columns laneOf() + 32 i.
template <int kColumns>
struct Sums {
  float of[kWarpRows][kColumns] = {};

  __device__ void addValues(const Memory& memory, int dim, const float (&factors)[kWarpRows]) {
#pragma unroll
    for (int r = 0; r < kWarpRows; ++r) {
#pragma unroll
      for (int i = 0; i < kColumns; ++i) of[r][i] *= factors[r];
    }
    const float* weights = memory.weights + warpOf() * kWarpRows * kKeys;
#pragma unroll 2
    for (int key = 0; key < kKeys; ++key) {
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        const int column = laneOf() + i * kWarp;
        const float value = column < dim ? memory.keys[key * memory.stride + column] : 0.0f;
#pragma unroll
        for (int r = 0; r < kWarpRows; ++r) of[r][i] = fmaf(weights[r * kKeys + key], value, of[r][i]);
      }
    }
  }

  /// Calls write(column, sum) for the columns of the warp's row r.
  template <typename Write>
  __device__ __forceinline__ void forEach(int r, int dim, Write write) const {
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      const int column = laneOf() + i * kWarp;
      if (column < dim) write(column, of[r][i]);
    }
  }
};

/// Goes through the keys of one split.
template <PagodaDtype kDtype, int kColumns>
__device__ void runSplit(const PagodaAttention& op, const Work& work, const Memory& memory, int split,
                         SoftmaxState (&states)[kWarpRows], Sums<kColumns>& sums) {
  const KvLayout layout(op.cache);
  const int end = min(work.end, (split + 1) * kSplitKeys);
  for (int first = max(split * kSplitKeys, work.first / kKeys * kKeys); first < end; first += kKeys) {
    loadKeys<kDtype>(op, work, memory, layout, first, 0);
    __syncthreads();
    float scores[kWarpRows], factors[kWarpRows];
    scoreKeys(op, work, memory, first, scores);
    updateStates(memory, scores, states, factors);
    __syncthreads();
    if (op.cache.latentDim == 0) {
      loadKeys<kDtype>(op, work, memory, layout, first, 1);
      __syncthreads();
    }
    sums.addValues(memory, valueDim(op.cache), factors);
    __syncthreads();
  }
}

/// A block goes through all splits of its rows and writes the result.
template <PagodaDtype kDtype, int kColumns>
__device__ void runAllSplits(const PagodaAttention& op, const Work& work, const Memory& memory) {
  SoftmaxState states[kWarpRows];
  Sums<kColumns> sums;
  for (int split = work.first / kSplitKeys; split * kSplitKeys < work.end; ++split) {
    SoftmaxState others[kWarpRows];
    Sums<kColumns> otherSums;
    runSplit<kDtype>(op, work, memory, split, others, otherSums);
#pragma unroll
    for (int r = 0; r < kWarpRows; ++r) {
      const MergeFactors factors = merge(states[r], others[r]);
#pragma unroll
      for (int i = 0; i < kColumns; ++i) sums.of[r][i] = mergeSums(sums.of[r][i], otherSums.of[r][i], factors);
    }
  }
  const int dim = valueDim(op.cache);
#pragma unroll
  for (int r = 0; r < kWarpRows; ++r) {
    const int row = warpOf() * kWarpRows + r;
    if (row >= work.tile.count) break;
    const float factor = finalFactor(states[r], sinkOf(op.sinks, work.head(row)));
    float* out = rowOf(op.out, work.tile.firstToken + work.token(row)) + static_cast<int64_t>(work.head(row)) * dim;
    sums.forEach(r, dim, [&](int column, float sum) { out[column] = sum * factor; });
  }
}

/// A block takes one split of its rows and leaves a partial result.
template <PagodaDtype kDtype, int kColumns>
__device__ void runOneSplit(const Parameters& p, const Work& work, const Memory& memory, int split) {
  SoftmaxState states[kWarpRows];
  Sums<kColumns> sums;
  runSplit<kDtype>(p.op, work, memory, split, states, sums);
  const int dim = valueDim(p.op.cache);
#pragma unroll
  for (int r = 0; r < kWarpRows; ++r) {
    const int row = warpOf() * kWarpRows + r;
    if (row >= work.tile.count) break;
    const int64_t token = static_cast<int64_t>(split) * p.op.batch.numTokens + work.tile.firstToken + work.token(row);
    const int64_t index = token * p.op.numHeads + work.head(row);
    if (laneOf() == 0) p.partials.states[index] = states[r];
    if (states[r].largest == -kInfinity) continue;
    sums.forEach(r, dim, [&](int column, float sum) { p.partials.sums[index * dim + column] = sum; });
  }
}

template <PagodaDtype kDtype, int kColumns>
__global__ void __launch_bounds__(kThreads) attentionKernel(const Parameters p) {
  const PagodaAttention& op = p.op;
  const Memory memory(&sharedMemory<float>(), op.cache.headDim);
  const int group = op.numHeads / op.cache.numKvHeads;
  Work work = {findTile(op.batch, blockIdx.x, group, kRows, memory.found), static_cast<int>(blockIdx.y), group, 0, 0};
  if (work.tile.count <= 0) return;
  work.first = work.visible(0, op.slidingWindow).first;
  work.end = work.visible(work.tile.count - 1, op.slidingWindow).end;
  loadQuery(op, work, memory);
  if (p.splits == 1) return runAllSplits<kDtype, kColumns>(op, work, memory);
  runOneSplit<kDtype, kColumns>(p, work, memory, blockIdx.z);
}

template <PagodaDtype kDtype>
PagodaStatus launchAttention(PagodaDevice* device, const Parameters& p, unsigned tiles, PagodaError* error) {
  const LaunchShape shape = {dim3(tiles, p.op.cache.numKvHeads, p.splits), dim3(kThreads), sharedBytes(p.op.cache)};
  const auto run = [&](auto kernel) { return check(launch(kernel, shape, device->stream, p), "attention", error); };
  const int64_t columns = ceilDivide(valueDim(p.op.cache), kWarp);
  if (columns <= 2) return run(attentionKernel<kDtype, 2>);
  if (columns <= 4) return run(attentionKernel<kDtype, 4>);
  if (columns <= 8) return run(attentionKernel<kDtype, 8>);
  return run(attentionKernel<kDtype, 16>);
}

/// Blocks take one split each where a batch has too few tiles to fill the device.
int32_t chooseSplits(const PagodaDevice& device, const PagodaAttention& op, int64_t tiles) {
  const int64_t splits = ceilDivide(op.batch.maxSeqLen, kSplitKeys);
  constexpr int kMaxSplits = 65535, kBlocksPerMultiprocessor = 2;
  const bool isFull = tiles * op.cache.numKvHeads >= kBlocksPerMultiprocessor * device.multiprocessors;
  return isFull || splits > kMaxSplits ? 1 : static_cast<int32_t>(splits);
}

PagodaStatus validate(const PagodaDevice& device, const PagodaAttention& op, PagodaError* error) {
  if (const PagodaStatus status = requireF32(error, op.out, op.query)) return status;
  if (op.numHeads < 1 || op.numHeads % op.cache.numKvHeads != 0)
    return fail(PAGODA_INVALID, "Expected `numHeads` to be a multiple of `numKvHeads`", error);
  constexpr int kMaxValueDim = 512;
  if (valueDim(op.cache) > kMaxValueDim)
    return fail(PAGODA_UNSUPPORTED, "The CUDA backend supports values of at most 512 columns", error);
  if (sharedBytes(op.cache) > device.sharedBytes)
    return fail(PAGODA_UNSUPPORTED, "The GPU has too little shared memory for heads of this size", error);
  return PAGODA_OK;
}

}  // namespace

PagodaStatus attend(PagodaDevice* device, const PagodaAttention& op, PagodaError* error) {
  if (const PagodaStatus status = validate(*device, op, error)) return status;
  if (op.out.rows == 0) return PAGODA_OK;
  if (canAttendByWgmma(*device, op)) return attendByWgmma(device, op, error);
  if (canAttendByMma(*device, op)) return attendByMma(device, op, error);
  if (canAttendLatentsByWgmma(*device, op)) return attendLatentsByWgmma(device, op, error);
  if (canAttendLatents(*device, op)) return attendLatents(device, op, error);
  const int64_t tiles =
      maxQueryTiles(op.batch.numTokens, op.batch.numRequests, op.numHeads / op.cache.numKvHeads, kRows);
  Parameters p = {op, {}, chooseSplits(*device, op, tiles)};
  if (p.splits > 1) {
    const int64_t rows = static_cast<int64_t>(op.batch.numTokens) * op.numHeads;
    if (const PagodaStatus status = reservePartials(device, p.splits, rows, valueDim(op.cache), &p.partials, error))
      return status;
  }
  const PagodaStatus status = withKvDtype(op.cache.dtype, [&](auto dtype) {
    return launchAttention<decltype(dtype)::value>(device, p, static_cast<unsigned>(tiles), error);
  });
  if (status != PAGODA_OK || p.splits == 1) return status;
  return combineSplits(device, {op, p.partials, kSplitKeys}, error);
}

PagodaStatus attention(PagodaDevice* device, const PagodaAttention* op, PagodaError* error) {
  if (op->cache.latentDim > 0) return fail(PAGODA_INVALID, "Expected a cache of K and V apart", error);
  return attend(device, *op, error);
}

}  // namespace pagoda::cuda
