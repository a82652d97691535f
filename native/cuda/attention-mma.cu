// Paged attention over bf16 and int8 caches on the tensor cores, for heads of 64 to 256 columns. A warp has 16 packed
// rows; q and the weights are rounded to bf16, as are codes of int8 after their scale, sums are f32. Prefill has blocks
// of four warps, decode of one, with the same arithmetic for a row, so both give it the same bits. K and V are copied
// page by page in the background, one tile of keys ahead.
#include "attention-warps.cuh"

namespace pagoda::cuda {
namespace {

constexpr int kPrefillWarps = 4;

struct Parameters {
  PagodaAttention op;
  Partials partials;  // rows are [request, KV head, kWarpRows], where blocks take one split each
  int32_t splits;     // 1: a block takes all of them
  int32_t minRows;    // packed rows of the requests that this launch is for
  int32_t maxRows;
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

template <typename S>
__device__ __forceinline__ WarpRows<S> rowsOf(const PagodaAttention& op, const GroupTile& work, uint16_t* query) {
  return WarpRows<S>(op, work, query, [&](int row, int column) -> const float* {
    const int dim = op.cache.headDim;
    if (column >= dim) return nullptr;
    return rowOf(op.query, work.tile.firstToken + work.token(row)) + static_cast<int64_t>(work.head(row)) * dim +
           column;
  });
}

template <typename S, int kWarps, PagodaDtype kDtype>
__device__ void runSplit(const PagodaAttention& op, const KvLayout& layout, const GroupTile& work,
                         Tiles<S, kDtype>& tiles, int split, WarpRows<S>& rows) {
  runSplit(
      work, split, rows, [&](int stage, int first) { loadTile<S, kWarps>(op, layout, work, tiles, stage, first); },
      [&](int stage) -> const KeysAndValues<S>& { return tiles.template take<kWarps * kWarp>(stage); });
}

/// Goes through all splits. The sums so far wait in shared memory, or in the result, whose elements are a lane's own.
template <typename S, int kWarps, PagodaDtype kDtype>
__device__ void runAllSplits(const PagodaAttention& op, const KvLayout& layout, const GroupTile& work,
                             Shared<S, kWarps, kDtype>& shared) {
  WarpRows<S> rows = rowsOf<S>(op, work, shared.query[S::kIsWide ? warpOf() : 0][0]);
  SoftmaxState states[2];
  float* totals = &shared.totals[0][threadIdx.x];
  constexpr int kStride = kWarps * kWarp;
  const int firstSplit = work.keys.first / kSplitKeys;
  for (int split = firstSplit; split * kSplitKeys < work.keys.end; ++split) {
    runSplit<S, kWarps>(op, layout, work, shared.tiles, split, rows);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const MergeFactors factors = merge(states[i], rows.state[i]);
      forTotals(op, work, rows, i, totals, kStride, [&](float& total, float&, int element) {
        total = mergeSums(split == firstSplit ? 0.0f : total, rows.sums[element], factors);
      });
    }
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float factor = rows.isPresent(i) ? finalFactor(states[i], sinkOf(op.sinks, work.head(rows.row(i)))) : 0.0f;
    forTotals(op, work, rows, i, totals, kStride, [&](float& total, float& out, int) { out = total * factor; });
  }
}

/// Leaves the partial result of one split; blocks have one warp.
template <typename S, PagodaDtype kDtype>
__device__ void runOneSplit(const Parameters& p, const KvLayout& layout, const GroupTile& work,
                            Shared<S, 1, kDtype>& shared) {
  WarpRows<S> rows = rowsOf<S>(p.op, work, shared.query[0][0]);
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
__global__ void __launch_bounds__(kWarps* kWarp, S::kDim == 64 ? 2 : 0) attentionMmaKernel(const Parameters p) {
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
