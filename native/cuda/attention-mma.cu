// Paged attention over bf16 caches on the tensor cores, for heads of 64 and 128 columns. A warp has 16 packed rows; q
// and the weights are rounded to bf16, sums are f32. Prefill has blocks of four warps, decode of one, with the same
// arithmetic for a row, so both give it the same bits. K and V are copied page by page in the background, one tile of
// keys ahead.
#include "attention-fragments.cuh"

namespace pagoda::cuda {
namespace {

constexpr int kStages = 2;
constexpr int kPrefillWarps = 4;

struct Parameters {
  PagodaAttention op;
  Partials partials;  // rows are [request, KV head, kWarpRows], where blocks take one split each
  int32_t splits;     // 1: a block takes all of them
  int32_t minRows;    // packed rows of the requests that this launch is for
  int32_t maxRows;
};

/// Keys lie in rows of kDim bf16 whose 16-byte chunks are swizzled, chunk c of row r at c ^ (r % 8), so that eight rows
/// of a matrix come from different banks.
template <int kDim, int kWarps>
struct Shared {
  uint16_t keys[kStages][kKeys][kDim];
  uint16_t values[kStages][kKeys][kDim];
  float totals[kDim / 2][kWarps * kWarp];  // sums of the splits that are done, a thread's own, out of its registers
  int32_t found;
};

/// Queues the copies of a tile of K and V, zeros where no row sees them.
template <int kDim, int kWarps>
__device__ void loadTile(const PagodaAttention& op, const KvLayout& layout, const GroupTile& work,
                         Shared<kDim, kWarps>& shared, int stage, int first) {
  constexpr int kChunks = kDim / 8, kKeysAtOnce = kWarps * kWarp / kChunks;
  const int32_t* blocks = op.batch.blockTable + static_cast<int64_t>(work.tile.request) * op.batch.maxBlocks;
  const int chunk = threadIdx.x % kChunks;
#pragma unroll 4
  for (int key = threadIdx.x / kChunks; key < kKeys; key += kKeysAtOnce) {
    const int position = first + key;
    const bool isSeen = position >= work.keys.first && position < work.keys.end;
    const uint8_t* from = static_cast<const uint8_t*>(op.cache.data);
    if (isSeen) {
      const int64_t slot = slotOf(blocks, position, op.cache.blockSize);
      from = kvVector(op.cache, layout, slot, 0, work.kvHead).data + 16 * chunk;
    }
    const int bytes = isSeen ? 16 : 0;
    copyAsync16(&shared.keys[stage][key][swizzled(key, chunk)], from, bytes);
    copyAsync16(&shared.values[stage][key][swizzled(key, chunk)], from + (isSeen ? layout.part : 0), bytes);
  }
}

/// A warp's 16 rows: lane l has parts of rows l / 4 and l / 4 + 8, which are `0` and `1` below.
template <int kDim>
class WarpRows {
 public:
  static constexpr int kColumnTiles = kDim / 8;

  __device__ WarpRows(const PagodaAttention& op, const GroupTile& work) : op_(op), work_(work) {
    firstRow_ = warpOf() * kWarpRows + laneOf() / 4;
#pragma unroll
    for (int i = 0; i < 2; ++i) seen_[i] = isPresent(i) ? work.visible(row(i), op.slidingWindow) : Visible{0, 0};
    loadQuery();
  }

  __device__ bool isPresent(int i) const { return row(i) < work_.tile.count; }
  __device__ int row(int i) const { return firstRow_ + 8 * i; }

  /// Takes a tile of keys in.
  __device__ void attend(const uint16_t (&keys)[kKeys][kDim], const uint16_t (&values)[kKeys][kDim], int first) {
    float scores[4 * kKeyTiles];
    multiplyKeys(keys, scores);
    finishScores(first, scores);
    takeScores(scores, state, sums);
    addValues(scores, sums, [&](int key, int tile) { return &values[key][swizzled(key, tile)]; });
  }

  /// Whether any row of the warp sees any of the keys from `first` on.
  __device__ bool sees(int first) const {
    const bool own = max(seen_[0].end, seen_[1].end) > first &&
                     (seen_[0].first < first + kKeys || (isPresent(1) && seen_[1].first < first + kKeys));
    return __ballot_sync(kAllLanes, own) != 0;
  }

  /// Starts a split: nothing has been seen.
  __device__ void reset() {
#pragma unroll
    for (int i = 0; i < 2; ++i) state[i] = {};
#pragma unroll
    for (float& sum : sums) sum = 0.0f;
  }

  /// Calls write(column, element) for the sums[element] that belong to row i.
  template <typename Write>
  static __device__ __forceinline__ void forEach(int i, Write write) {
#pragma unroll
    for (int t = 0; t < kColumnTiles; ++t) {
      const int column = 8 * t + 2 * (laneOf() % 4);
      write(column, 4 * t + 2 * i);
      write(column + 1, 4 * t + 2 * i + 1);
    }
  }

  SoftmaxState state[2];  // the sums of a row are spread over its four lanes until `finishStates`
  float sums[4 * kColumnTiles];

 private:
  __device__ void loadQuery() {
    const float* from[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int present = isPresent(i) ? row(i) : 0;
      from[i] = rowOf(op_.query, work_.tile.firstToken + work_.token(present)) +
                static_cast<int64_t>(work_.head(present)) * kDim + 2 * (laneOf() % 4);
    }
#pragma unroll
    for (int k = 0; k < kDim / 16; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* x = from[i % 2] + 16 * k + 8 * (i / 2);
        query_[k][i] = isPresent(i % 2) ? packBf16(x[0], x[1]) : 0u;
      }
    }
  }

  /// scores = query * keys^T
  __device__ void multiplyKeys(const uint16_t (&keys)[kKeys][kDim], float (&scores)[4 * kKeyTiles]) const {
#pragma unroll
    for (float& score : scores) score = 0.0f;
    const int matrix = laneOf() / 8, line = laneOf() % 8;  // of the four that a lane helps to load
#pragma unroll
    for (int k = 0; k < kDim / 16; ++k) {
#pragma unroll
      for (int t = 0; t < kKeyTiles; t += 2) {
        const int key = 8 * (t + matrix / 2) + line;
        uint32_t b[4];
        ldmatrix(b, &keys[key][swizzled(key, 2 * k + matrix % 2)]);
        const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
        mmaBf16(&scores[4 * t], query_[k], first);
        mmaBf16(&scores[4 * t + 4], query_[k], second);
      }
    }
  }

  /// Scales the scores; those of keys that a row does not see become -Inf.
  __device__ void finishScores(int first, float (&scores)[4 * kKeyTiles]) const {
#pragma unroll
    for (int i = 0; i < 4 * kKeyTiles; ++i) {
      const int position = first + 8 * (i / 4) + 2 * (laneOf() % 4) + i % 2;
      scores[i] = finishScore(scores[i], op_, seen_[rowOfElement(i)], position);
    }
  }

  const PagodaAttention& op_;
  const GroupTile& work_;
  int firstRow_;
  Visible seen_[2];
  uint32_t query_[kDim / 16][4];
};

/// Goes through the keys of one split. All threads of the block come here together.
template <int kDim, int kWarps>
__device__ void runSplit(const PagodaAttention& op, const KvLayout& layout, const GroupTile& work,
                         Shared<kDim, kWarps>& shared, int split, WarpRows<kDim>& rows) {
  rows.reset();
  const int begin = max(split * kSplitKeys, work.keys.first / kKeys * kKeys);
  const int end = min((split + 1) * kSplitKeys, work.keys.end);
  if (begin < end) loadTile(op, layout, work, shared, 0, begin);
  commitCopies();
  for (int first = begin, tile = 0; first < end; first += kKeys, ++tile) {
    if (first + kKeys < end) loadTile(op, layout, work, shared, (tile + 1) % kStages, first + kKeys);
    commitCopies();
    waitForCopies<1>();
    __syncthreads();
    if (rows.sees(first)) rows.attend(shared.keys[tile % kStages], shared.values[tile % kStages], first);
    __syncthreads();
  }
  finishStates(rows.state);
}

template <int kDim, int kWarps>
__device__ void runAllSplits(const PagodaAttention& op, const KvLayout& layout, const GroupTile& work,
                             Shared<kDim, kWarps>& shared) {
  WarpRows<kDim> rows(op, work);
  SoftmaxState states[2];
#pragma unroll
  for (int i = 0; i < kDim / 2; ++i) shared.totals[i][threadIdx.x] = 0.0f;
  for (int split = work.keys.first / kSplitKeys; split * kSplitKeys < work.keys.end; ++split) {
    runSplit(op, layout, work, shared, split, rows);
    const MergeFactors factors[2] = {merge(states[0], rows.state[0]), merge(states[1], rows.state[1])};
#pragma unroll
    for (int i = 0; i < kDim / 2; ++i) {
      float& total = shared.totals[i][threadIdx.x];
      total = mergeSums(total, rows.sums[i], factors[rowOfElement(i)]);
    }
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (!rows.isPresent(i)) continue;
    const int head = work.head(rows.row(i));
    const float factor = finalFactor(states[i], sinkOf(op.sinks, head));
    float* out = rowOf(op.out, work.tile.firstToken + work.token(rows.row(i))) + static_cast<int64_t>(head) * kDim;
    WarpRows<kDim>::forEach(
        i, [&](int column, int element) { out[column] = shared.totals[element][threadIdx.x] * factor; });
  }
}

/// Leaves the partial result of one split; blocks have one warp.
template <int kDim>
__device__ void runOneSplit(const Parameters& p, const KvLayout& layout, const GroupTile& work,
                            Shared<kDim, 1>& shared) {
  WarpRows<kDim> rows(p.op, work);
  runSplit(p.op, layout, work, shared, blockIdx.z, rows);
  const int64_t requests = p.op.batch.numRequests;
  const int64_t first = ((blockIdx.z * requests + work.tile.request) * p.op.cache.numKvHeads + work.kvHead) * kWarpRows;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (!rows.isPresent(i)) continue;
    const int64_t index = first + rows.row(i);
    if (laneOf() % 4 == 0) p.partials.states[index] = rows.state[i];
    if (rows.state[i].largest == -kInfinity) continue;
    WarpRows<kDim>::forEach(
        i, [&](int column, int element) { p.partials.sums[index * kDim + column] = rows.sums[element]; });
  }
}

template <int kDim, int kWarps>
__global__ void __launch_bounds__(kWarps* kWarp) attentionMmaKernel(const Parameters p) {
  auto& shared = sharedMemory<Shared<kDim, kWarps>>();
  const PagodaAttention& op = p.op;
  const int group = op.numHeads / op.cache.numKvHeads;
  const QueryTile tile = findTile(op.batch, blockIdx.x, group, kWarps * kWarpRows, &shared.found);
  const int packed = packedRows(op, tile.request);
  if (tile.count <= 0 || packed < p.minRows || packed > p.maxRows) return;
  const GroupTile work(op, tile, static_cast<int>(blockIdx.y));
  const KvLayout layout(op.cache);
  if constexpr (kWarps == 1) {
    if (p.splits > 1) return runOneSplit<kDim>(p, layout, work, shared);
  }
  runAllSplits(op, layout, work, shared);
}

template <int kDim, int kWarps>
PagodaStatus launchAttention(PagodaDevice* device, const Parameters& p, PagodaError* error) {
  const PagodaAttention& op = p.op;
  const int64_t tiles =
      maxQueryTiles(op.batch.numTokens, op.batch.numRequests, op.numHeads / op.cache.numKvHeads, kWarps * kWarpRows);
  const LaunchShape shape = {dim3(static_cast<unsigned>(tiles), op.cache.numKvHeads, p.splits), dim3(kWarps * kWarp),
                             sizeof(Shared<kDim, kWarps>)};
  return check(launch(attentionMmaKernel<kDim, kWarps>, shape, device->stream, p), "attention", error);
}

/// Requests whose rows fit a warp: one split a block where there are too few of them to fill the device.
template <int kDim>
PagodaStatus runDecode(PagodaDevice* device, const PagodaAttention& op, PagodaError* error) {
  constexpr int64_t kBlocksPerMultiprocessor = 2;
  const int64_t blocks = static_cast<int64_t>(op.batch.numRequests) * op.cache.numKvHeads;
  const int64_t splits = ceilDivide(op.batch.maxSeqLen, kSplitKeys);
  const bool isFull = blocks >= kBlocksPerMultiprocessor * device->multiprocessors || splits > 65535;
  Parameters p = {op, {}, isFull ? 1 : static_cast<int32_t>(splits), 1, kWarpRows};
  if (p.splits > 1) {
    if (const PagodaStatus status = reservePartials(device, p.splits, blocks * kWarpRows, kDim, &p.partials, error))
      return status;
  }
  if (const PagodaStatus status = launchAttention<kDim, 1>(device, p, error)) return status;
  if (p.splits == 1) return PAGODA_OK;
  return combineDecode(device, {op, p.partials, kWarpRows, kSplitKeys}, error);
}

template <int kDim>
PagodaStatus run(PagodaDevice* device, const PagodaAttention& op, PagodaError* error) {
  const int group = op.numHeads / op.cache.numKvHeads;
  if (group <= kWarpRows) {
    if (const PagodaStatus status = runDecode<kDim>(device, op, error)) return status;
  }
  if (static_cast<int64_t>(op.batch.maxQueryLen) * group <= kWarpRows) return PAGODA_OK;
  const Parameters p = {op, {}, 1, group <= kWarpRows ? kWarpRows + 1 : 1, INT32_MAX};
  return launchAttention<kDim, kPrefillWarps>(device, p, error);
}

}  // namespace

bool canAttendByMma(const PagodaAttention& op) {
  const PagodaKvCache& cache = op.cache;
  return cache.dtype == PAGODA_BF16 && cache.latentDim == 0 && (cache.headDim == 64 || cache.headDim == 128);
}

PagodaStatus attendByMma(PagodaDevice* device, const PagodaAttention& op, PagodaError* error) {
  return op.cache.headDim == 64 ? run<64>(device, op, error) : run<128>(device, op, error);
}

}  // namespace pagoda::cuda
