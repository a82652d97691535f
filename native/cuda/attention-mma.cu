// Paged attention over bf16 and int8 caches on the tensor cores, for heads of 64 to 256 columns. A warp has 16 packed
// rows; q and the weights are rounded to bf16, as are codes of int8 after their scale, sums are f32. Prefill has blocks
// of four warps, decode of one, with the same arithmetic for a row, so both give it the same bits. K and V are copied
// page by page in the background, one tile of keys ahead.
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

/// Heads are padded with zeros to kDim columns: 64, 128 or 256. The widest ones leave no registers for q and, where a
/// block may have 99 KB of shared memory, no room there for the sums of the splits that are done.
template <int kPaddedDim>
struct Shape {
  static constexpr int kDim = kPaddedDim;
  static constexpr bool kIsWide = kDim > 128;
  static constexpr int kKeys = kIsWide ? 32 : 64;  // of a tile
  static constexpr int kScores = kKeys / 2;        // that a lane has
  static constexpr int kSums = kDim / 2;
  static_assert(kSplitKeys % kKeys == 0);

  using Tile = uint16_t[kKeys][kDim];
};

/// A tile of K and V, rows of bf16 whose 16-byte chunks are swizzled, chunk c of row r at c ^ (r % 8), so that eight
/// rows of a matrix come from different banks.
template <typename S>
struct KeysAndValues {
  typename S::Tile keys, values;
};

/// Tiles as they are copied.
template <typename S, PagodaDtype kDtype>
struct Tiles {
  static_assert(kDtype == PAGODA_BF16);
  static constexpr int kChunks = S::kDim / 8;  // of 16 bytes, of a vector
  KeysAndValues<S> stages[kStages];

  __device__ void copyChunk(int stage, int key, int chunk, const KvVector& k, const KvLayout& layout, bool isSeen) {
    const int bytes = isSeen ? 16 : 0;
    const uint8_t* from = k.data + 16 * chunk;
    copyAsync16(&stages[stage].keys[key][swizzled(key, chunk)], from, bytes);
    copyAsync16(&stages[stage].values[key][swizzled(key, chunk)], from + layout.part, bytes);
  }
  /// All threads, after the copies have been waited for.
  template <int kThreads>
  __device__ const KeysAndValues<S>& take(int stage) {
    return stages[stage];
  }
};

template <typename S>
struct Tiles<S, PAGODA_INT8> {
  static constexpr int kChunks = S::kDim / 16;
  int8_t codes[kStages][2][S::kKeys][S::kDim];
  float scales[kStages][2][S::kKeys];
  KeysAndValues<S> rounded;

  __device__ void copyChunk(int stage, int key, int chunk, const KvVector& k, const KvLayout& layout, bool isSeen) {
    const uint8_t* from = k.data + 16 * chunk;
#pragma unroll
    for (int part = 0; part < 2; ++part) {
      copyAsync16(&codes[stage][part][key][16 * chunk], from + part * layout.part, isSeen ? 16 : 0);
      if (chunk > 0) continue;
      const auto* scale = reinterpret_cast<const uint8_t*>(k.scales) + part * layout.scales;
      copyAsync4(&scales[stage][part][key], scale, isSeen ? 4 : 0);
    }
  }
  template <int kThreads>
  __device__ const KeysAndValues<S>& take(int stage) {
    roundCodes<kThreads>(codes[stage][0], rounded.keys, [&](int key, int) { return scales[stage][0][key]; });
    roundCodes<kThreads>(codes[stage][1], rounded.values, [&](int key, int) { return scales[stage][1][key]; });
    __syncthreads();
    return rounded;
  }
};

template <typename S, int kWarps, PagodaDtype kDtype>
struct Shared {
  Tiles<S, kDtype> tiles;
  uint16_t query[S::kIsWide ? kWarps : 1][S::kIsWide ? kWarpRows : 1][S::kDim];
  float totals[S::kIsWide ? 1 : S::kSums][kWarps * kWarp];  // a thread's own, out of its registers
  int32_t found;
};
static_assert(sizeof(Shared<Shape<256>, kPrefillWarps, PAGODA_BF16>) <= 99 * 1024);
static_assert(sizeof(Shared<Shape<256>, kPrefillWarps, PAGODA_INT8>) <= 99 * 1024);
static_assert(sizeof(Shared<Shape<128>, kPrefillWarps, PAGODA_INT8>) <= 99 * 1024);

/// Queues the copies of a tile of K and V, zeros where no row sees them.
template <typename S, int kWarps, PagodaDtype kDtype>
__device__ void loadTile(const PagodaAttention& op, const KvLayout& layout, const GroupTile& work,
                         Tiles<S, kDtype>& tiles, int stage, int first) {
  constexpr int kChunks = Tiles<S, kDtype>::kChunks, kKeysAtOnce = kWarps * kWarp / kChunks;
  const int32_t* blocks = op.batch.blockTable + static_cast<int64_t>(work.tile.request) * op.batch.maxBlocks;
  const int chunk = threadIdx.x % kChunks;
  const bool hasColumns = chunk * (S::kDim / kChunks) < op.cache.headDim;
#pragma unroll 4
  for (int key = threadIdx.x / kChunks; key < S::kKeys; key += kKeysAtOnce) {
    const int position = first + key;
    const bool isSeen = hasColumns && position >= work.keys.first && position < work.keys.end;
    const int64_t slot = isSeen ? slotOf(blocks, position, op.cache.blockSize) : 0;
    tiles.copyChunk(stage, key, chunk, kvVector(op.cache, layout, slot, 0, work.kvHead), layout, isSeen);
  }
}

/// A warp's 16 rows: lane l has parts of rows l / 4 and l / 4 + 8, which are `0` and `1` below.
template <typename S>
class WarpRows {
 public:
  static constexpr int kColumnTiles = S::kDim / 8;

  /// `query`: shared memory for the warp's rows of q, where they are kept there.
  __device__ WarpRows(const PagodaAttention& op, const GroupTile& work, uint16_t* query)
      : op_(op), work_(work), sharedQuery_(query) {
    firstRow_ = warpOf() * kWarpRows + laneOf() / 4;
#pragma unroll
    for (int i = 0; i < 2; ++i) seen_[i] = isPresent(i) ? work.visible(row(i), op.slidingWindow) : Visible{0, 0};
    loadQuery();
  }

  __device__ bool isPresent(int i) const { return row(i) < work_.tile.count; }
  __device__ int row(int i) const { return firstRow_ + 8 * i; }

  /// Takes a tile of keys in.
  __device__ void attend(const KeysAndValues<S>& tile, int first) {
    float scores[S::kScores];
    multiplyKeys(tile.keys, scores);
    finishScores(first, scores);
    takeScores(scores, state, sums);
    addValues(scores, sums, [&](int key, int chunk) { return &tile.values[key][swizzled(key, chunk)]; });
  }

  /// Whether any row of the warp sees any of the keys from `first` on.
  __device__ bool sees(int first) const {
    const bool own = max(seen_[0].end, seen_[1].end) > first &&
                     (seen_[0].first < first + S::kKeys || (isPresent(1) && seen_[1].first < first + S::kKeys));
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
  __device__ __forceinline__ void forEach(int i, Write write) const {
#pragma unroll
    for (int t = 0; t < kColumnTiles; ++t) {
      if (8 * t >= op_.cache.headDim) break;
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
                static_cast<int64_t>(work_.head(present)) * op_.cache.headDim + 2 * (laneOf() % 4);
    }
#pragma unroll
    for (int k = 0; k < S::kDim / 16; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int column = 16 * k + 8 * (i / 2);  // the first of eight
        const float* x = from[i % 2] + column;
        const uint32_t rounded = isPresent(i % 2) && column < op_.cache.headDim ? packBf16(x[0], x[1]) : 0u;
        if constexpr (S::kIsWide) {
          const int line = laneOf() / 4 + 8 * (i % 2);
          uint16_t* to = sharedQuery_ + line * S::kDim + swizzled(line, column / 8) + 2 * (laneOf() % 4);
          *reinterpret_cast<uint32_t*>(to) = rounded;
        } else {
          query_[k][i] = rounded;
        }
      }
    }
    __syncwarp();
  }

  __device__ __forceinline__ void loadStep(int k, uint32_t (&a)[4]) const {
    if constexpr (S::kIsWide) {
      loadRows(sharedQuery_, S::kDim, k, a);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) a[i] = query_[k][i];
    }
  }

  /// scores = query * keys^T
  __device__ void multiplyKeys(const typename S::Tile& keys, float (&scores)[S::kScores]) const {
#pragma unroll
    for (float& score : scores) score = 0.0f;
    const int matrix = laneOf() / 8, line = laneOf() % 8;  // of the four that a lane helps to load
#pragma unroll S::kIsWide ? 2 : S::kDim / 16
    for (int k = 0; k < S::kDim / 16; ++k) {
      uint32_t a[4];
      loadStep(k, a);
#pragma unroll
      for (int t = 0; t < S::kKeys / 8; t += 2) {
        const int key = 8 * (t + matrix / 2) + line;
        uint32_t b[4];
        ldmatrix(b, &keys[key][swizzled(key, 2 * k + matrix % 2)]);
        const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
        mmaBf16(&scores[4 * t], a, first);
        mmaBf16(&scores[4 * t + 4], a, second);
      }
    }
  }

  /// Scales the scores; those of keys that a row does not see become -Inf.
  __device__ void finishScores(int first, float (&scores)[S::kScores]) const {
#pragma unroll
    for (int i = 0; i < S::kScores; ++i) {
      const int position = first + 8 * (i / 4) + 2 * (laneOf() % 4) + i % 2;
      scores[i] = finishScore(scores[i], op_, seen_[rowOfElement(i)], position);
    }
  }

  const PagodaAttention& op_;
  const GroupTile& work_;
  int firstRow_;
  Visible seen_[2];
  uint16_t* sharedQuery_;
  uint32_t query_[S::kIsWide ? 1 : S::kDim / 16][4];
};

/// Goes through the keys of one split. All threads of the block come here together.
template <typename S, int kWarps, PagodaDtype kDtype>
__device__ void runSplit(const PagodaAttention& op, const KvLayout& layout, const GroupTile& work,
                         Tiles<S, kDtype>& tiles, int split, WarpRows<S>& rows) {
  rows.reset();
  const int begin = max(split * kSplitKeys, work.keys.first / S::kKeys * S::kKeys);
  const int end = min((split + 1) * kSplitKeys, work.keys.end);
  if (begin < end) loadTile<S, kWarps>(op, layout, work, tiles, 0, begin);
  commitCopies();
  for (int first = begin, tile = 0; first < end; first += S::kKeys, ++tile) {
    if (first + S::kKeys < end) loadTile<S, kWarps>(op, layout, work, tiles, (tile + 1) % kStages, first + S::kKeys);
    commitCopies();
    waitForCopies<1>();
    __syncthreads();
    const KeysAndValues<S>& own = tiles.template take<kWarps * kWarp>(tile % kStages);
    if (rows.sees(first)) rows.attend(own, first);
    __syncthreads();
  }
  finishStates(rows.state);
}

/// Goes through all splits. The sums so far wait in shared memory, or in the result, whose elements are a lane's own.
template <typename S, int kWarps, PagodaDtype kDtype>
__device__ void runAllSplits(const PagodaAttention& op, const KvLayout& layout, const GroupTile& work,
                             Shared<S, kWarps, kDtype>& shared) {
  WarpRows<S> rows(op, work, shared.query[S::kIsWide ? warpOf() : 0][0]);
  SoftmaxState states[2];
  const auto forTotals = [&](int i, auto visit) {
    if (!rows.isPresent(i)) return;
    float* out = rowOf(op.out, work.tile.firstToken + work.token(rows.row(i))) +
                 static_cast<int64_t>(work.head(rows.row(i))) * op.cache.headDim;
    rows.forEach(i, [&](int column, int element) {
      visit(S::kIsWide ? out[column] : shared.totals[element][threadIdx.x], out[column], element);
    });
  };
  const int firstSplit = work.keys.first / kSplitKeys;
  for (int split = firstSplit; split * kSplitKeys < work.keys.end; ++split) {
    runSplit<S, kWarps>(op, layout, work, shared.tiles, split, rows);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const MergeFactors factors = merge(states[i], rows.state[i]);
      forTotals(i, [&](float& total, float&, int element) {
        total = mergeSums(split == firstSplit ? 0.0f : total, rows.sums[element], factors);
      });
    }
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float factor = rows.isPresent(i) ? finalFactor(states[i], sinkOf(op.sinks, work.head(rows.row(i)))) : 0.0f;
    forTotals(i, [&](float& total, float& out, int) { out = total * factor; });
  }
}

/// Leaves the partial result of one split; blocks have one warp.
template <typename S, PagodaDtype kDtype>
__device__ void runOneSplit(const Parameters& p, const KvLayout& layout, const GroupTile& work,
                            Shared<S, 1, kDtype>& shared) {
  WarpRows<S> rows(p.op, work, shared.query[0][0]);
  runSplit<S, 1>(p.op, layout, work, shared.tiles, blockIdx.z, rows);
  const int64_t requests = p.op.batch.numRequests;
  const int64_t first = ((blockIdx.z * requests + work.tile.request) * p.op.cache.numKvHeads + work.kvHead) * kWarpRows;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (!rows.isPresent(i)) continue;
    const int64_t index = first + rows.row(i);
    if (laneOf() % 4 == 0) p.partials.states[index] = rows.state[i];
    if (rows.state[i].largest == -kInfinity) continue;
    rows.forEach(
        i, [&](int column, int element) { p.partials.sums[index * p.op.cache.headDim + column] = rows.sums[element]; });
  }
}

template <typename S, int kWarps, PagodaDtype kDtype>
__global__ void __launch_bounds__(kWarps* kWarp) attentionMmaKernel(const Parameters p) {
  auto& shared = sharedMemory<Shared<S, kWarps, kDtype>>();
  const PagodaAttention& op = p.op;
  const int group = op.numHeads / op.cache.numKvHeads;
  const QueryTile tile = findTile(op.batch, blockIdx.x, group, kWarps * kWarpRows, &shared.found);
  const int packed = packedRows(op, tile.request);
  if (tile.count <= 0 || packed < p.minRows || packed > p.maxRows) return;
  const GroupTile work(op, tile, static_cast<int>(blockIdx.y));
  const KvLayout layout(op.cache);
  if constexpr (kWarps == 1) {
    if (p.splits > 1) return runOneSplit(p, layout, work, shared);
  }
  runAllSplits(op, layout, work, shared);
}

template <typename S, int kWarps, PagodaDtype kDtype>
PagodaStatus launchAttention(PagodaDevice* device, const Parameters& p, PagodaError* error) {
  const PagodaAttention& op = p.op;
  const int64_t tiles =
      maxQueryTiles(op.batch.numTokens, op.batch.numRequests, op.numHeads / op.cache.numKvHeads, kWarps * kWarpRows);
  const LaunchShape shape = {dim3(static_cast<unsigned>(tiles), op.cache.numKvHeads, p.splits), dim3(kWarps * kWarp),
                             sizeof(Shared<S, kWarps, kDtype>)};
  return check(launch(attentionMmaKernel<S, kWarps, kDtype>, shape, device->stream, p), "attention", error);
}

/// Requests whose rows fit a warp: one split a block where there are too few of them to fill the device.
template <typename S, PagodaDtype kDtype>
PagodaStatus runDecode(PagodaDevice* device, const PagodaAttention& op, PagodaError* error) {
  constexpr int64_t kBlocksPerMultiprocessor = 2;
  const int64_t blocks = static_cast<int64_t>(op.batch.numRequests) * op.cache.numKvHeads;
  const int64_t splits = ceilDivide(op.batch.maxSeqLen, kSplitKeys);
  const bool isFull = blocks >= kBlocksPerMultiprocessor * device->multiprocessors || splits > 65535;
  Parameters p = {op, {}, isFull ? 1 : static_cast<int32_t>(splits), 1, kWarpRows};
  if (p.splits > 1) {
    if (const PagodaStatus status =
            reservePartials(device, p.splits, blocks * kWarpRows, op.cache.headDim, &p.partials, error))
      return status;
  }
  if (const PagodaStatus status = launchAttention<S, 1, kDtype>(device, p, error)) return status;
  if (p.splits == 1) return PAGODA_OK;
  return combineDecode(device, {op, p.partials, kWarpRows, kSplitKeys}, error);
}

template <typename S, PagodaDtype kDtype>
PagodaStatus run(PagodaDevice* device, const PagodaAttention& op, PagodaError* error) {
  const int group = op.numHeads / op.cache.numKvHeads;
  if (group <= kWarpRows) {
    if (const PagodaStatus status = runDecode<S, kDtype>(device, op, error)) return status;
  }
  if (static_cast<int64_t>(op.batch.maxQueryLen) * group <= kWarpRows) return PAGODA_OK;
  const Parameters p = {op, {}, 1, group <= kWarpRows ? kWarpRows + 1 : 1, INT32_MAX};
  return launchAttention<S, kPrefillWarps, kDtype>(device, p, error);
}

template <PagodaDtype kDtype>
PagodaStatus run(PagodaDevice* device, const PagodaAttention& op, PagodaError* error) {
  if (op.cache.headDim <= 64) return run<Shape<64>, kDtype>(device, op, error);
  if (op.cache.headDim <= 128) return run<Shape<128>, kDtype>(device, op, error);
  return run<Shape<256>, kDtype>(device, op, error);
}

}  // namespace

bool canAttendByMma(const PagodaDevice& device, const PagodaAttention& op) {
  const PagodaKvCache& cache = op.cache;
  const bool fits = cache.dtype == PAGODA_BF16 || (cache.dtype == PAGODA_INT8 && cache.headDim % 16 == 0);
  return fits && cache.latentDim == 0 && isWideEnough(cache.headDim) &&
         device.sharedBytes >= sizeof(Shared<Shape<256>, kPrefillWarps, PAGODA_INT8>);
}

PagodaStatus attendByMma(PagodaDevice* device, const PagodaAttention& op, PagodaError* error) {
  if (op.cache.dtype == PAGODA_INT8) return run<PAGODA_INT8>(device, op, error);
  return run<PAGODA_BF16>(device, op, error);
}

}  // namespace pagoda::cuda
