// Attention over bf16 and int8 latent caches of DeepSeek's size, rows of 576 columns whose first 512 are the value, on
// the tensor cores; codes of int8 are rounded to bf16 after their scale. A block has 16 packed rows, heads of a token
// before the next token: each of its four warps scores a quarter of a tile of keys, then all take all scores and sum a
// quarter of the columns. The page gather is part of the copy: rows of the cache go to shared memory once, for scores
// and sums alike.
#include "attention-fragments.cuh"

namespace pagoda::cuda {
namespace {

constexpr int kKeys = 64;  // of a tile
constexpr int kKeyTiles = kKeys / 8;
static_assert(kSplitKeys % kKeys == 0);
constexpr int kRow = 576;
constexpr int kLatent = 512;
constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kStages = 2;
constexpr int kWarpColumnTiles = kLatent / kWarps / 8;
constexpr int kSums = 4 * kWarpColumnTiles;  // that a thread has
constexpr int kWarpKeys = kKeys / kWarps;
static_assert(kWarpKeys == 16 && kRow % 64 == 0, "swizzled() wants eight chunks");

struct Parameters {
  PagodaAttention op;
  Partials partials;  // rows are [token, head], where blocks take one split each
  int32_t splits;     // 1: a block takes all of them
};

using Tile = uint16_t[kKeys][kRow];

/// Tiles as they are copied.
template <PagodaDtype kDtype>
struct Tiles {
  static_assert(kDtype == PAGODA_BF16);
  Tile stages[kStages];

  /// A warp copies a row, or zeros.
  __device__ void copyRow(int stage, int key, const KvVector& row, bool isPresent) {
    for (int chunk = laneOf(); chunk < kRow / 8; chunk += kWarp)
      copyAsync16(&stages[stage][key][swizzled(key, chunk)], row.data + 16 * chunk, isPresent ? 16 : 0);
  }
  /// All threads, after the copies have been waited for.
  __device__ const Tile& take(int stage) { return stages[stage]; }
};

template <>
struct Tiles<PAGODA_INT8> {
  int8_t codes[kStages][kKeys][kRow];
  float scales[kStages][kKeys][2];  // of the latent and of the rope key
  Tile rounded;

  __device__ void copyRow(int stage, int key, const KvVector& row, bool isPresent) {
    for (int chunk = laneOf(); chunk < kRow / 16; chunk += kWarp)
      copyAsync16(&codes[stage][key][16 * chunk], row.data + 16 * chunk, isPresent ? 16 : 0);
    if (laneOf() < 2) copyAsync4(&scales[stage][key][laneOf()], row.scales + laneOf(), isPresent ? 4 : 0);
  }
  __device__ const Tile& take(int stage) {
    roundCodes<kThreads>(codes[stage], rounded,
                         [&](int key, int column) { return scales[stage][key][column < kLatent ? 0 : 1]; });
    __syncthreads();
    return rounded;
  }
};

template <PagodaDtype kDtype>
struct Shared {
  Tiles<kDtype> tiles;
  uint16_t query[kWarpRows][kRow];
  float scores[kWarpRows][kKeys + 4];  // padded against bank conflicts
  float totals[kSums][kThreads];       // sums of the splits that are done, a thread's own
  int32_t found;
};

struct Work {
  QueryTile tile;
  int heads;
  int end;  // of the positions that any row sees

  __device__ int token(int row) const { return (tile.first + row) / heads; }
  __device__ int head(int row) const { return (tile.first + row) % heads; }
  __device__ Visible visible(int row) const {
    return row < tile.count ? visibleFrom(tile.position + token(row), 0) : Visible{0, 0};
  }
};

template <PagodaDtype kDtype>
__device__ void loadQuery(const PagodaAttention& op, const Work& work, Shared<kDtype>& shared) {
  for (int row = warpOf(); row < kWarpRows; row += kWarps) {
    const bool isPresent = row < work.tile.count;
    const float* query = isPresent ? rowOf(op.query, work.tile.firstToken + work.token(row)) +
                                         static_cast<int64_t>(work.head(row)) * kRow
                                   : nullptr;
    for (int i = laneOf(); i < kRow; i += kWarp)
      shared.query[row][swizzled(row, i / 8) + i % 8] = isPresent ? toBf16(query[i]) : 0;
  }
}

/// Queues the copies of a tile of keys, zeros where no row sees them: a warp takes a key at a time.
template <PagodaDtype kDtype>
__device__ void loadTile(const PagodaAttention& op, const KvLayout& layout, const Work& work, Tiles<kDtype>& tiles,
                         int stage, int first) {
  const int32_t* blocks = op.batch.blockTable + static_cast<int64_t>(work.tile.request) * op.batch.maxBlocks;
  for (int key = warpOf(); key < kKeys; key += kWarps) {
    const int position = first + key;
    const bool isSeen = position < work.end;
    const int64_t slot = isSeen ? slotOf(blocks, position, op.cache.blockSize) : 0;
    tiles.copyRow(stage, key, kvVector(op.cache, layout, slot, 0, 0), isSeen);
  }
}

/// Scores of all rows with the warp's 16 keys, into shared memory.
template <PagodaDtype kDtype>
__device__ void scoreKeys(const PagodaAttention& op, Shared<kDtype>& shared, const Tile& keys, int first,
                          const Visible (&seen)[2]) {
  const int matrix = laneOf() / 8, line = laneOf() % 8, key = kWarpKeys * warpOf();
  float scores[2][4] = {};
#pragma unroll 4
  for (int k = 0; k < kRow / 16; ++k) {
    uint32_t a[4], b[4];
    const int ownKey = key + 8 * (matrix / 2) + line;
    loadRows(shared.query[0], kRow, k, a);
    ldmatrix(b, &keys[ownKey][swizzled(ownKey, 2 * k + matrix % 2)]);
    const uint32_t low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
    mmaBf16(scores[0], a, low);
    mmaBf16(scores[1], a, high);
  }
#pragma unroll
  for (int t = 0; t < 2; ++t) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int column = key + 8 * t + 2 * (laneOf() % 4) + i % 2;
      shared.scores[laneOf() / 4 + 8 * (i / 2)][column] = finishScore(scores[t][i], op, seen[i / 2], first + column);
    }
  }
}

/// Goes through the keys of one split. Every warp has the states of all rows, and sums of its columns.
template <PagodaDtype kDtype>
__device__ void runSplit(const PagodaAttention& op, const KvLayout& layout, const Work& work, Shared<kDtype>& shared,
                         int split, SoftmaxState (&states)[2], float (&sums)[kSums]) {
  const int begin = split * kSplitKeys, end = min(begin + kSplitKeys, work.end);
  const Visible seen[2] = {work.visible(laneOf() / 4), work.visible(laneOf() / 4 + 8)};
  if (begin < end) loadTile(op, layout, work, shared.tiles, 0, begin);
  commitCopies();
  for (int first = begin, tile = 0; first < end; first += kKeys, ++tile) {
    if (first + kKeys < end) loadTile(op, layout, work, shared.tiles, (tile + 1) % kStages, first + kKeys);
    commitCopies();
    waitForCopies<1>();
    __syncthreads();
    const Tile& keys = shared.tiles.take(tile % kStages);
    scoreKeys(op, shared, keys, first, seen);
    __syncthreads();
    float scores[4 * kKeyTiles];
#pragma unroll
    for (int i = 0; i < 4 * kKeyTiles; ++i)
      scores[i] = shared.scores[laneOf() / 4 + 8 * rowOfElement(i)][8 * (i / 4) + 2 * (laneOf() % 4) + i % 2];
    takeScores(scores, states, sums);
    addValues(scores, sums,
              [&](int key, int chunk) { return &keys[key][swizzled(key, kWarpColumnTiles * warpOf() + chunk)]; });
    __syncthreads();
  }
  finishStates(states);
}

/// Calls write(column, element) for what a thread has of a row: `i` is 0 or 1.
template <typename Write>
__device__ __forceinline__ void forColumnsOf(int i, Write write) {
#pragma unroll
  for (int t = 0; t < kWarpColumnTiles; ++t) {
    const int column = 8 * (kWarpColumnTiles * warpOf() + t) + 2 * (laneOf() % 4);
    write(column, 4 * t + 2 * i);
    write(column + 1, 4 * t + 2 * i + 1);
  }
}

template <PagodaDtype kDtype>
__device__ void runAllSplits(const PagodaAttention& op, const KvLayout& layout, const Work& work,
                             Shared<kDtype>& shared) {
  SoftmaxState states[2];
#pragma unroll
  for (int i = 0; i < kSums; ++i) shared.totals[i][threadIdx.x] = 0.0f;
  for (int split = 0; split * kSplitKeys < work.end; ++split) {
    SoftmaxState others[2];
    float sums[kSums] = {};
    runSplit(op, layout, work, shared, split, others, sums);
    const MergeFactors factors[2] = {merge(states[0], others[0]), merge(states[1], others[1])};
#pragma unroll
    for (int i = 0; i < kSums; ++i) {
      float& total = shared.totals[i][threadIdx.x];
      total = mergeSums(total, sums[i], factors[rowOfElement(i)]);
    }
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = laneOf() / 4 + 8 * i;
    if (row >= work.tile.count) continue;
    const float factor = finalFactor(states[i], sinkOf(op.sinks, work.head(row)));
    float* out = rowOf(op.out, work.tile.firstToken + work.token(row)) + static_cast<int64_t>(work.head(row)) * kLatent;
    forColumnsOf(i, [&](int column, int element) { out[column] = shared.totals[element][threadIdx.x] * factor; });
  }
}

template <PagodaDtype kDtype>
__device__ void runOneSplit(const Parameters& p, const KvLayout& layout, const Work& work, Shared<kDtype>& shared) {
  SoftmaxState states[2];
  float sums[kSums] = {};
  runSplit(p.op, layout, work, shared, blockIdx.z, states, sums);
  const int64_t first = static_cast<int64_t>(blockIdx.z) * p.op.batch.numTokens + work.tile.firstToken;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = laneOf() / 4 + 8 * i;
    if (row >= work.tile.count) continue;
    const int64_t index = (first + work.token(row)) * p.op.numHeads + work.head(row);
    if (laneOf() % 4 == 0 && warpOf() == 0) p.partials.states[index] = states[i];
    if (states[i].largest == -kInfinity) continue;
    forColumnsOf(i, [&](int column, int element) { p.partials.sums[index * kLatent + column] = sums[element]; });
  }
}

template <PagodaDtype kDtype>
__global__ void __launch_bounds__(kThreads, 1) attentionLatentKernel(const Parameters p) {
  auto& shared = sharedMemory<Shared<kDtype>>();
  Work work = {findTile(p.op.batch, blockIdx.x, p.op.numHeads, kWarpRows, &shared.found), p.op.numHeads, 0};
  if (work.tile.count <= 0) return;
  work.end = work.visible(work.tile.count - 1).end;
  const KvLayout layout(p.op.cache);
  loadQuery(p.op, work, shared);  // a barrier follows before it is read
  if (p.splits > 1) return runOneSplit(p, layout, work, shared);
  runAllSplits(p.op, layout, work, shared);
}

template <PagodaDtype kDtype>
cudaError_t launchAttention(PagodaDevice* device, const Parameters& p, int64_t tiles) {
  const LaunchShape shape = {dim3(static_cast<unsigned>(tiles), 1, p.splits), dim3(kThreads), sizeof(Shared<kDtype>)};
  return launch(attentionLatentKernel<kDtype>, shape, device->stream, p);
}

}  // namespace

bool canAttendLatents(const PagodaDevice& device, const PagodaAttention& op) {
  const PagodaKvCache& cache = op.cache;
  static_assert(sizeof(Shared<PAGODA_INT8>) >= sizeof(Shared<PAGODA_BF16>));
  return device.sharedBytes >= sizeof(Shared<PAGODA_INT8>) && cache.dtype != PAGODA_F32 && cache.headDim == kRow &&
         cache.latentDim == kLatent && op.slidingWindow == 0;
}

PagodaStatus attendLatents(PagodaDevice* device, const PagodaAttention& op, PagodaError* error) {
  const int64_t tiles = maxQueryTiles(op.batch.numTokens, op.batch.numRequests, op.numHeads, kWarpRows);
  const int64_t splits = ceilDivide(op.batch.maxSeqLen, kSplitKeys);
  const bool isFull = tiles >= device->multiprocessors || splits > 65535;
  Parameters p = {op, {}, isFull ? 1 : static_cast<int32_t>(splits)};
  if (p.splits > 1) {
    const int64_t rows = static_cast<int64_t>(op.batch.numTokens) * op.numHeads;
    if (const PagodaStatus status = reservePartials(device, p.splits, rows, kLatent, &p.partials, error)) return status;
  }
  const auto launched = op.cache.dtype == PAGODA_INT8 ? launchAttention<PAGODA_INT8>(device, p, tiles)
                                                      : launchAttention<PAGODA_BF16>(device, p, tiles);
  const PagodaStatus status = check(launched, "mlaAttention", error);
  if (status != PAGODA_OK || p.splits == 1) return status;
  return combineSplits(device, {op, p.partials, kSplitKeys}, error);
}

}  // namespace pagoda::cuda
