// Attention over bf16 latent caches of DeepSeek's size, rows of 576 columns whose first 512 are the value, on GPUs of
// compute capability 9.0, after FlashMLA. A block has 64 packed rows, heads of a token before the next token. A warp
// feeds the copy engine, box by box through the block table: that is the whole gather, and a row of the cache comes to
// shared memory once, for scores and sums alike. One warpgroup, the scorer, multiplies q and the keys, makes weights of
// the scores and sums the left half of the columns; the other one, the helper, gets the weights through shared memory
// and sums the right half, while the scorer goes on to the next tile.
//
// Blocks stay and take a split of a tile of rows after the other, or all splits of a tile, whichever is done sooner:
// the bits are the same.
#include "attention-wgmma.cuh"
#include "product.cuh"

namespace pagoda::cuda {
namespace {

constexpr int kRow = 576;
constexpr int kLatent = 512;
constexpr int kHalf = kLatent / 2;
constexpr int kPanels = kRow / kTileColumns;       // of a key
constexpr int kHalfPanels = kHalf / kTileColumns;  // of half a value
constexpr int kKeys = 64;                          // of a tile
constexpr int kSteps = kKeys / kMatrixStep;
constexpr int kStages = 2;
constexpr int kSums = kHalf / 2;  // that a thread has
constexpr int kThreads = 3 * kWarpgroup;
constexpr int kConsumers = 2 * kWarpgroup;
static_assert(kLongSplit % kKeys == 0);

/// The helper may read what the scorer left; the scorer may leave the next; the scorer's threads meet.
enum NamedBarrier { kReady = 1, kFree = 2, kScorer = 3 };

struct Parameters {
  TensorMap rows;     // of the cache
  TensorMap queries;  // [tokens * heads], rounded
  PagodaAttention op;
  Partials partials;  // [split, token, head], where blocks take one split each
  int32_t numRows;    // of the cache
  int32_t boxKeys;    // that one copy takes
};

/// By how much the sums of a split and of those before it count, and the whole at the end.
struct SplitEnd {
  float before, own, whole;
};

struct Shared {
  alignas(kSwizzleBytes) uint16_t keys[kStages][kPanels][kKeys][kTileColumns];
  uint16_t query[kPanels][kWarpgroupRows][kTileColumns];
  uint16_t weights[kWarpgroupRows][kKeys];
  float factors[kWarpgroupRows];
  SplitEnd ends[kWarpgroupRows];
  Channel<kStages> keyChannel;
  Channel<1> queryChannel;
};
static_assert(sizeof(Shared) <= 227 * 1024);

/// Rows of a tile with one split of their keys, or with all.
struct Item {
  GroupTile work;
  KeyRange keys;
  int split;  // the first one
};

/// The items of a batch, one request after the other; the tiles of a split beside each other, since they share its
/// keys.
template <bool kHasPartials>
class Items {
 public:
  __device__ explicit Items(const Parameters& p) : p_(p) {}

  __device__ bool find(int index, Item* item) {
    int request, number;
    const auto countOf = [&](int r) { return tilesOf(r) * splitsOf(r); };
    if (!search_.find(p_.op.batch.numRequests, index, countOf, &request, &number)) return false;
    const int tiles = tilesOf(request);
    item->work = tile(request, number % tiles);
    item->split = number / tiles;
    item->keys = {item->split * kLongSplit, item->work.keys.end};
    if constexpr (kHasPartials) item->keys.end = min((item->split + 1) * kLongSplit, item->work.keys.end);
    return true;
  }

  /// An item, to be set by `find`.
  __device__ Item none() const { return {GroupTile(p_.op, {0, 0, 0, 0, 0}, 0), {0, 0}, 0}; }

 private:
  __device__ int tilesOf(int request) const {
    return static_cast<int>(ceilDivide(packedRows(p_.op, request), kWarpgroupRows));
  }
  __device__ int splitsOf(int request) const {
    return kHasPartials ? static_cast<int>(ceilDivide(p_.op.batch.seqLens[request], kLongSplit)) : 1;
  }
  __device__ GroupTile tile(int request, int index) const {
    const PagodaBatch& batch = p_.op.batch;
    const int firstToken = batch.queryStartLoc[request], tokens = batch.queryStartLoc[request + 1] - firstToken;
    const int first = index * kWarpgroupRows, count = min(kWarpgroupRows, packedRows(p_.op, request) - first);
    return GroupTile(p_.op, {request, first, count, firstToken, batch.seqLens[request] - tokens}, 0);
  }

  const Parameters& p_;
  ItemSearch search_;
};

// ---- the producer's warp --------------------------------------------------------------------------------------------

struct Rings {
  Ring<kStages> keys;
  Ring<1> query;
};

/// Where in the map the box of keys from `position` on begins; behind all rows, which gives zeros, where none is seen.
__device__ __forceinline__ int rowOfBox(const Parameters& p, const GroupTile& work, int position) {
  if (position >= work.keys.end) return p.numRows;
  const int32_t* blocks = p.op.batch.blockTable + static_cast<int64_t>(work.tile.request) * p.op.batch.maxBlocks;
  return blocks[position / p.op.cache.blockSize] * p.op.cache.blockSize + position % p.op.cache.blockSize;
}

__device__ void copyKeys(Shared& shared, Ring<kStages>& ring, const Parameters& p, const GroupTile& work, int first) {
  const int boxes = kKeys / p.boxKeys, box = laneOf() % boxes * p.boxKeys;
  const int row = rowOfBox(p, work, first + box);
  shared.keyChannel.waitUntilEmpty(ring);
  auto& stage = shared.keys[ring.stage];
  PhaseBarrier& full = shared.keyChannel.full[ring.stage];
  if (laneOf() == 0) arriveAndExpect(full, sizeof stage);
  __syncwarp();
  for (int panel = laneOf() / boxes; panel < kPanels; panel += kWarp / boxes)
    copyBox(stage[panel][box], p.rows, full, kTileColumns * panel, 0, row);
  ring.next();
}

__device__ void copyQuery(Shared& shared, Ring<1>& ring, const Parameters& p, const GroupTile& work) {
  shared.queryChannel.waitUntilEmpty(ring);
  PhaseBarrier& full = shared.queryChannel.full[0];
  if (laneOf() == 0) arriveAndExpect(full, sizeof shared.query);
  __syncwarp();
  const int row = work.tile.firstToken * p.op.numHeads + work.tile.first;
  if (laneOf() < kPanels) copyBox(shared.query[laneOf()], p.queries, full, kTileColumns * laneOf(), 0, row);
  ring.next();
}

/// The query comes second: the scorer gives its memory back later than the first stage becomes free.
__device__ void produce(Shared& shared, Rings& rings, const Parameters& p, const Item& item) {
  for (int first = item.keys.first; first < item.keys.end; first += kKeys) {
    copyKeys(shared, rings.keys, p, item.work, first);
    if (first == item.keys.first) copyQuery(shared, rings.query, p, item.work);
  }
}

// ---- consuming warpgroups -------------------------------------------------------------------------------------------

__device__ __forceinline__ bool isScorer() { return threadIdx.x < kConsumers; }  // the other one is behind it

/// Queues scores = q * K^T of a tile.
__device__ __forceinline__ void multiplyKeys(Shared& shared, int stage, float (&scores)[kKeys / 2]) {
  beginProducts();
#pragma unroll
  for (int column = 0; column < kRow; column += kMatrixStep) {
    const uint64_t query = describeMatrix(sharedAddress(shared.query[column / kTileColumns]));
    const uint64_t keys = describeMatrix(sharedAddress(shared.keys[stage][column / kTileColumns]));
    multiplyBf16Async(scores, advance(query, column % kTileColumns), advance(keys, column % kTileColumns), column > 0);
  }
  commitProducts();
}

/// Leaves the weights and factors of a tile for the helper.
__device__ __forceinline__ void sendWeights(Shared& shared, const uint32_t (&weights)[kSteps][4],
                                            const float (&factors)[2]) {
  const int thread = threadIdx.x % kWarpgroup;
  barrierSync(kFree, kConsumers);
#pragma unroll
  for (int k = 0; k < kSteps; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = resultRow(thread, 2 * (i % 2)), chunk = 2 * k + i / 2;
      uint16_t* to = &shared.weights[row][(chunk ^ row % 8) * 8 + 2 * (thread % 4)];
      *reinterpret_cast<uint32_t*>(to) = weights[k][i];
    }
  }
  if (thread % 4 == 0) {
#pragma unroll
    for (int r = 0; r < 2; ++r) shared.factors[resultRow(thread, 2 * r)] = factors[r];
  }
  publishShared();
  barrierArrive(kReady, kConsumers);
}

/// The scorer's part of some keys, up to one split: their states, and the left half of the sums. `isEnd`: no keys of
/// the item come behind them.
__device__ __forceinline__ void scoreSplit(Shared& shared, Rings& rings, const Parameters& p, const Item& item,
                                           const OwnRows& rows, const KeyRange& range, SoftmaxState (&states)[2],
                                           float (&sums)[kSums]) {
  const ScoreUnit unit(p.op);
#pragma unroll
  for (SoftmaxState& state : states) state = {};
#pragma unroll
  for (float& sum : sums) sum = 0.0f;
  if (range.first == item.keys.first) shared.queryChannel.waitUntilFull(rings.query);
  for (int first = range.first; first < range.end; first += kKeys) {
    float scores[kKeys / 2], factors[2];
    uint32_t weights[kSteps][4];
    const int stage = rings.keys.stage;
    shared.keyChannel.waitUntilFull(rings.keys);
    const KeyRange tail = tailOf(p.op, item.work, p.boxKeys, first, kKeys);
    if (tail.first < tail.end) {
      clearKeys(shared.keys[stage], tail, threadIdx.x % kWarpgroup, kWarpgroup);
      barrierSync(kScorer, kWarpgroup);
    }
    multiplyKeys(shared, stage, scores);
    waitForProducts<0>();
    if (first + kKeys >= item.keys.end) {
      shared.queryChannel.release(0);
      rings.query.next();
    }
    finishScores(p.op, rows, unit, first, scores);
    weighScores(scores, unit.log2, states, factors);
    roundWeights(scores, weights);
    sendWeights(shared, weights, factors);
    scaleSums(sums, factors);
    const uint64_t values = describeTransposed(sharedAddress(shared.keys[stage]), kKeys);
    beginProducts();
#pragma unroll
    for (int k = 0; k < kSteps; ++k)
      multiplyTransposedAsync(sums, weights[k], advanceRows(values, kMatrixStep * k), true);
    commitProducts();
    waitForProducts<0>();
    shared.keyChannel.release(stage);
    rings.keys.next();
  }
  finishStates(states, unit.scale);
}

/// The helper's part: the right half of the sums.
__device__ __forceinline__ void helpSplit(Shared& shared, Rings& rings, const KeyRange& range, float (&sums)[kSums]) {
  const int thread = threadIdx.x % kWarpgroup;
#pragma unroll
  for (float& sum : sums) sum = 0.0f;
  for (int first = range.first; first < range.end; first += kKeys) {
    const int stage = rings.keys.stage;
    shared.keyChannel.waitUntilFull(rings.keys);
    barrierSync(kReady, kConsumers);
    const float factors[2] = {shared.factors[resultRow(thread, 0)], shared.factors[resultRow(thread, 2)]};
    scaleSums(sums, factors);
    const uint64_t weights = describeMatrix(sharedAddress(shared.weights));
    const uint64_t values = describeTransposed(sharedAddress(shared.keys[stage][kHalfPanels]), kKeys);
    beginProducts();
#pragma unroll
    for (int k = 0; k < kSteps; ++k)
      multiplyTransposedAsync(sums, advance(weights, kMatrixStep * k), advanceRows(values, kMatrixStep * k), true);
    commitProducts();
    waitForProducts<0>();
    barrierArrive(kFree, kConsumers);
    shared.keyChannel.release(stage);
    rings.keys.next();
  }
}

/// Calls visit(column of the value, element of the sums) for a thread's own of its row r.
template <typename Visit>
__device__ __forceinline__ void forColumnsOf(int r, Visit visit) {
  const int first = isScorer() ? 0 : kHalf;
#pragma unroll
  for (int i = 0; i < kSums; ++i)
    if (rowOfElement(i) == r) visit(first + resultColumn(threadIdx.x % kWarpgroup, i), i);
}

/// Leaves the partial result of a split; the helper has no states.
__device__ __forceinline__ void leaveSplit(const Parameters& p, const Item& item, const OwnRows& rows,
                                           const SoftmaxState (&states)[2], const float (&sums)[kSums]) {
  const int64_t first = static_cast<int64_t>(item.split) * p.op.batch.numTokens + item.work.tile.firstToken;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    if (!rows.present[r]) continue;
    const int64_t index = (first + item.work.token(rows.row[r])) * p.op.numHeads + item.work.head(rows.row[r]);
    if (isScorer() && laneOf() % 4 == 0) p.partials.states[index] = states[r];
    float* to = p.partials.sums + index * kLatent;
    forColumnsOf(r, [&](int column, int i) { to[column] = sums[i]; });
  }
}

/// How a split joins those before it, from the scorer, which knows the states of all.
__device__ __forceinline__ void sendEnds(Shared& shared, const SplitEnd (&ends)[2]) {
  const int thread = threadIdx.x % kWarpgroup;
  barrierSync(kFree, kConsumers);
  if (thread % 4 == 0) {
#pragma unroll
    for (int r = 0; r < 2; ++r) shared.ends[resultRow(thread, 2 * r)] = ends[r];
  }
  barrierArrive(kReady, kConsumers);
}

__device__ __forceinline__ void receiveEnds(const Shared& shared, SplitEnd (&ends)[2]) {
  const int thread = threadIdx.x % kWarpgroup;
  barrierSync(kReady, kConsumers);
#pragma unroll
  for (int r = 0; r < 2; ++r) ends[r] = shared.ends[resultRow(thread, 2 * r)];
  barrierArrive(kFree, kConsumers);
}

/// Adds a split to what `out` has of those before; nobody else reads or writes these elements.
__device__ __forceinline__ void joinSplit(const PagodaAttention& op, const GroupTile& work, const OwnRows& rows,
                                          bool isFirst, const SplitEnd (&ends)[2], const float (&sums)[kSums]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    if (!rows.present[r]) continue;
    const MergeFactors factors = {ends[r].before, ends[r].own};
    float* out = rowOf(op.out, work.tile.firstToken + work.token(rows.row[r])) +
                 static_cast<int64_t>(work.head(rows.row[r])) * kLatent;
    forColumnsOf(r, [&](int column, int i) {
      out[column] = mergeSums(isFirst ? 0.0f : out[column], sums[i], factors) * ends[r].whole;
    });
  }
}

/// All splits of a tile, one after the other.
__device__ __forceinline__ void attendTile(Shared& shared, Rings& rings, const Parameters& p, const Item& item) {
  const OwnRows rows(item.work, 0, 0);
  SoftmaxState totals[2];
  for (int begin = 0; begin < item.keys.end; begin += kLongSplit) {
    const KeyRange range = {begin, min(begin + kLongSplit, item.keys.end)};
    float sums[kSums];
    SplitEnd ends[2];
    if (isScorer()) {
      SoftmaxState states[2];
      scoreSplit(shared, rings, p, item, rows, range, states, sums);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const MergeFactors factors = merge(totals[r], states[r]);
        const bool isLast = range.end == item.keys.end && rows.present[r];
        const float whole = isLast ? finalFactor(totals[r], sinkOf(p.op.sinks, item.work.head(rows.row[r]))) : 1.0f;
        ends[r] = {factors.first, factors.second, whole};
      }
      sendEnds(shared, ends);
    } else {
      helpSplit(shared, rings, range, sums);
      receiveEnds(shared, ends);
    }
    joinSplit(p.op, item.work, rows, begin == 0, ends, sums);
  }
}

__device__ __forceinline__ void attendSplit(Shared& shared, Rings& rings, const Parameters& p, const Item& item) {
  const OwnRows rows(item.work, 0, 0);
  SoftmaxState states[2];
  float sums[kSums];
  if (isScorer()) {
    scoreSplit(shared, rings, p, item, rows, item.keys, states, sums);
  } else {
    helpSplit(shared, rings, item.keys, sums);
  }
  leaveSplit(p, item, rows, states, sums);
}

template <bool kHasPartials>
__device__ __forceinline__ void consume(Shared& shared, const Parameters& p) {
  Items<kHasPartials> items(p);
  Rings rings;
  Item item = items.none();
  if (!isScorer()) barrierArrive(kFree, kConsumers);
  for (int index = blockIdx.x; items.find(index, &item); index += gridDim.x) {
    if (item.keys.first >= item.keys.end) continue;  // the tile sees nothing of this split
    if constexpr (kHasPartials) {
      attendSplit(shared, rings, p, item);
    } else {
      attendTile(shared, rings, p, item);
    }
  }
  if (isScorer()) barrierSync(kFree, kConsumers);  // the last one that came
}

template <bool kHasPartials>
__global__ void __launch_bounds__(kThreads, 1) attentionLatentWgmmaKernel(const __grid_constant__ Parameters p) {
  constexpr int kProducerRegisters = 40, kConsumerRegisters = 232;
  auto& shared = sharedMemory<Shared>();
  if (threadIdx.x == 0) {
    shared.keyChannel.begin(kConsumers / kWarp);
    shared.queryChannel.begin(kWarpgroup / kWarp);
    publishBarriers();
  }
  __syncthreads();
  if (threadIdx.x < kWarpgroup) {
    giveRegisters<kProducerRegisters>();
    if (warpOf() > 0) return;
    Items<kHasPartials> items(p);
    Rings rings;
    Item item = items.none();
    for (int index = blockIdx.x; items.find(index, &item); index += gridDim.x) produce(shared, rings, p, item);
  } else {
    takeRegisters<kConsumerRegisters>();
    consume<kHasPartials>(shared, p);
  }
}

// ---- the host -------------------------------------------------------------------------------------------------------

int64_t cacheRows(const PagodaKvCache& cache) { return static_cast<int64_t>(cache.numBlocks) * cache.blockSize; }

cudaError_t encodeRows(void* encoder, TensorMap* map, const void* base, int64_t rows, int32_t boxRows) {
  constexpr uint64_t kRowBytes = kRow * sizeof(uint16_t);
  const Planes planes = {base, kRow, 1, static_cast<uint64_t>(rows), kRowBytes, kRowBytes};
  return encodeTensorMap(encoder, map, planes, static_cast<uint32_t>(boxRows));
}

/// Rounds q, row by row of heads, and describes it.
PagodaStatus prepareQueries(PagodaDevice* device, Parameters& p, PagodaError* error) {
  const PagodaAttention& op = p.op;
  const int64_t rows = static_cast<int64_t>(op.query.rows) * op.numHeads;
  void* memory = nullptr;
  if (const PagodaStatus status =
          device->rounded.reserve(device->stream, rows * kRow * sizeof(uint16_t), &memory, error))
    return status;
  auto* queries = static_cast<uint16_t*>(memory);
  const RoundedRows rounded = {
      static_cast<const float*>(op.query.data), op.query.rowStride, nullptr, queries, kRow, kRow, op.numHeads};
  if (const PagodaStatus status = roundRows(device, rounded, op.query.rows, "mlaAttention", error)) return status;
  return check(encodeRows(device->tensorMapEncoder, &p.queries, queries, rows, kWarpgroupRows), "mlaAttention", error);
}

/// Whether blocks take one split each, in so many blocks.
struct Schedule {
  int64_t splits, items;
  bool hasPartials;

  Schedule(const PagodaDevice& device, const PagodaAttention& op) {
    const PagodaBatch& batch = op.batch;
    splits = ceilDivide(batch.maxSeqLen, kLongSplit);
    const int64_t rowsEach = static_cast<int64_t>(batch.maxQueryLen) * op.numHeads;
    const int64_t most = maxQueryTiles(batch.numTokens, batch.numRequests, op.numHeads, kWarpgroupRows);
    const int64_t equal = batch.numRequests * ceilDivide(rowsEach, kWarpgroupRows);
    const int64_t tiles = most < equal ? most : equal;
    const int64_t whole = ceilDivide(tiles, device.multiprocessors) * splits;  // splits that one block takes
    const int64_t apart = ceilDivide(tiles * splits, device.multiprocessors);
    const uint64_t bytes = splits * batch.numTokens * op.numHeads * (kLatent * sizeof(float) + sizeof(SoftmaxState));
    // Partial results of all rows are a quarter of the bytes of the keys, or less.
    hasPartials = splits > 1 && bytes <= device.maxPartialBytes && 5 * apart < 4 * whole;
    items = hasPartials ? tiles * splits : tiles;
  }
};

}  // namespace

bool canAttendLatentsByWgmma(const PagodaDevice& device, const PagodaAttention& op) {
  constexpr int64_t kMostRows = int64_t{1} << 30;  // coordinates of boxes are int32
  const PagodaKvCache& cache = op.cache;
  return device.tensorMapEncoder != nullptr && cache.dtype == PAGODA_BF16 && cache.headDim == kRow &&
         cache.latentDim == kLatent && op.slidingWindow == 0 && cache.blockSize % 8 == 0 &&
         cacheRows(cache) <= kMostRows && static_cast<int64_t>(op.query.rows) * op.numHeads <= kMostRows;
}

PagodaStatus attendLatentsByWgmma(PagodaDevice* device, const PagodaAttention& op, PagodaError* error) {
  Parameters p = {};
  p.op = op;
  p.numRows = static_cast<int32_t>(cacheRows(op.cache));
  p.boxKeys = chooseBoxKeys(op.cache.blockSize, kKeys);
  const cudaError_t encoded = encodeRows(device->tensorMapEncoder, &p.rows, op.cache.data, p.numRows, p.boxKeys);
  if (const PagodaStatus status = check(encoded, "mlaAttention", error)) return status;
  if (const PagodaStatus status = prepareQueries(device, p, error)) return status;
  const Schedule schedule(*device, op);
  if (schedule.hasPartials) {
    const int64_t rows = static_cast<int64_t>(op.batch.numTokens) * op.numHeads;
    const auto splits = static_cast<int32_t>(schedule.splits);
    if (const PagodaStatus status = reservePartials(device, splits, rows, kLatent, &p.partials, error)) return status;
  }
  const int64_t blocks = schedule.items < device->multiprocessors ? schedule.items : device->multiprocessors;
  const LaunchShape shape = {dim3(static_cast<unsigned>(blocks)), dim3(kThreads), sizeof(Shared)};
  const auto kernel = schedule.hasPartials ? attentionLatentWgmmaKernel<true> : attentionLatentWgmmaKernel<false>;
  const PagodaStatus status = check(launch(kernel, shape, device->stream, p), "mlaAttention", error);
  if (status != PAGODA_OK || !schedule.hasPartials) return status;
  return combineSplits(device, {op, p.partials, kLongSplit}, error);
}

}  // namespace pagoda::cuda
