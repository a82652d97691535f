// What the consuming warpgroups of attention by wgmma and TMA do, after FlashAttention-3 (arXiv:2407.08608): 64 rows
// each, q and K from shared memory, then the weights from registers with V. q and the weights are rounded to bf16, sums
// are f32. Whoever copies the keys, a row gets the same bits of them: tiles and splits of keys lie at multiples of
// their size, and the states of splits are merged in order.
#pragma once

#include "attention-wgmma.cuh"

namespace pagoda::cuda {

enum NamedBarrier { kAllConsumers = 1, kTurn = 2, kGroup = 4 };  // and one more for each warpgroup behind the last two

/// Blocks of 64 rows for each consuming warpgroup. Heads are padded with zeros: q and K to kDim columns, V to
/// kValueDim: 64, 128 or 256. K and V have as many stages each.
template <int kPaddedDim, int kPaddedValueDim, int kConsumingGroups, int kNumStages>
struct Shape {
  static constexpr int kDim = kPaddedDim;
  static constexpr int kValueDim = kPaddedValueDim;
  static constexpr int kConsumers = kConsumingGroups;
  static constexpr int kStages = kNumStages;
  static constexpr int kThreads = kWarpgroup * (1 + kConsumers);
  static constexpr int kKeys = kDim <= 192 ? 128 : 64;  // of a tile
  static constexpr int kPanels = kDim / kTileColumns;   // of 64 columns
  static constexpr int kValuePanels = kValueDim / kTileColumns;
  static constexpr int kSums = kValueDim / 2;  // that a thread has
  static constexpr int kScores = kKeys / 2;
  static constexpr int kSteps = kKeys / kMatrixStep;
  static constexpr bool kTakesTurns = kConsumers == 2;
  static constexpr bool kKeepsTotals = kTakesTurns && kDim <= 128;  // in shared memory
  static_assert(kLongSplit % kKeys == 0);

  using KeyTile = uint16_t[kPanels][kKeys][kTileColumns];
  using ValueTile = uint16_t[kValuePanels][kKeys][kTileColumns];
};

template <typename S>
struct Shared {
  alignas(kSwizzleBytes) typename S::KeyTile keys[S::kStages];
  typename S::ValueTile values[S::kStages];
  uint16_t query[S::kConsumers][S::kPanels][kWarpgroupRows][kTileColumns];
  float totals[S::kKeepsTotals ? S::kSums : 1][S::kConsumers * kWarpgroup];  // of the splits that are done
  Channel<S::kStages> keyChannel;
  Channel<S::kStages> valueChannel;
  int32_t found;
};

template <typename S>
constexpr bool fits() {
  return sizeof(Shared<S>) <= 227 * 1024;
}

/// All threads, before any other use of the channels.
template <typename S>
__device__ __forceinline__ void beginChannels(Shared<S>& shared) {
  if (threadIdx.x == 0) {
    shared.keyChannel.begin(S::kConsumers * kWarpgroup / kWarp);
    shared.valueChannel.begin(S::kConsumers * kWarpgroup / kWarp);
    publishBarriers();
  }
  __syncthreads();
}

template <typename S>
struct Rings {
  Ring<S::kStages> keys, values;
};

/// The keys of a split that some row sees, from the first of a tile on.
template <typename S>
__device__ __forceinline__ KeyRange keysOfSplit(const GroupTile& work, int split) {
  const int first = work.keys.first / S::kKeys * S::kKeys;
  return {max(split * kLongSplit, first), min((split + 1) * kLongSplit, work.keys.end)};
}

// ---- consuming warpgroups -------------------------------------------------------------------------------------------

template <typename S>
__device__ __forceinline__ int groupOf() {
  return threadIdx.x / kWarpgroup - 1;
}

/// The two warpgroups issue their products in turn, the first one first. Both have as many turns.
template <typename S>
__device__ __forceinline__ void giveTurn() {
  if constexpr (S::kTakesTurns) barrierArrive(kTurn + 1 - groupOf<S>(), 2 * kWarpgroup);
}
template <typename S>
__device__ __forceinline__ void takeTurn() {
  if constexpr (S::kTakesTurns) barrierSync(kTurn + groupOf<S>(), 2 * kWarpgroup);
}

/// Calls visit(column, element of the sums) for a thread's own of its row r.
template <typename S, typename Visit>
__device__ __forceinline__ void forColumnsOf(int r, int dim, Visit visit) {
#pragma unroll
  for (int i = 0; i < S::kSums; ++i) {
    const int column = resultColumn(threadIdx.x % kWarpgroup, i);
    if (rowOfElement(i) == r && column < dim) visit(column, i);
  }
}

/// The warpgroup's rows of q, rounded, into its shared memory: chunkOf(row, c) is where columns [8 c, 8 c + 8) of a row
/// are. Zeros where it is NULL, and where there is no row.
template <typename S, typename ChunkOf>
__device__ void loadQuery(Shared<S>& shared, const GroupTile& work, ChunkOf chunkOf) {
  constexpr int kChunks = S::kDim / 8;
  const int group = groupOf<S>();
  barrierSync(kGroup + group, kWarpgroup);  // all products with what was there are done
  for (int i = threadIdx.x % kWarpgroup; i < kWarpgroupRows * kChunks; i += kWarpgroup) {
    const int line = i / kChunks, chunk = i % kChunks, row = kWarpgroupRows * group + line;
    const float* x = row < work.tile.count ? chunkOf(row, chunk) : nullptr;
    uint4 rounded = make_uint4(0, 0, 0, 0);
    if (x != nullptr)
      rounded = make_uint4(packBf16(x[0], x[1]), packBf16(x[2], x[3]), packBf16(x[4], x[5]), packBf16(x[6], x[7]));
    uint16_t* to = &shared.query[group][chunk / 8][line][(chunk % 8 ^ line % 8) * 8];
    *reinterpret_cast<uint4*>(to) = rounded;
  }
  publishShared();
  barrierSync(kGroup + group, kWarpgroup);
}

/// Queues scores = q * K^T of a tile.
template <typename S>
__device__ __forceinline__ void multiplyKeys(Shared<S>& shared, int stage, float (&scores)[S::kScores]) {
  beginProducts();
#pragma unroll
  for (int column = 0; column < S::kDim; column += kMatrixStep) {
    const int panel = column / kTileColumns;
    const uint64_t query = describeMatrix(sharedAddress(shared.query[groupOf<S>()][panel]));
    const uint64_t keys = describeMatrix(sharedAddress(shared.keys[stage][panel]));
    multiplyBf16Async(scores, advance(query, column % kTileColumns), advance(keys, column % kTileColumns), column > 0);
  }
  commitProducts();
}

/// Queues sums += weights * V of a tile.
template <typename S>
__device__ __forceinline__ void multiplyValues(Shared<S>& shared, int stage, const uint32_t (&weights)[S::kSteps][4],
                                               float (&sums)[S::kSums]) {
  const uint64_t values = describeTransposed(sharedAddress(shared.values[stage]), S::kKeys);
  beginProducts();
#pragma unroll
  for (int k = 0; k < S::kSteps; ++k)
    multiplyTransposedAsync(sums, weights[k], advanceRows(values, kMatrixStep * k), true);
  commitProducts();
}

/// All consumers, of the tile of V that begins at `first`.
template <typename S, typename Parameters>
__device__ void clearTail(Shared<S>& shared, const Parameters& p, const GroupTile& work, int stage, int first) {
  const KeyRange tail = tailOf(p.op, work, p.boxKeys, first, S::kKeys);
  if (tail.first >= tail.end) return;
  clearKeys(shared.values[stage], tail, threadIdx.x - kWarpgroup, S::kConsumers * kWarpgroup);
  publishShared();
  barrierSync(kAllConsumers, S::kConsumers * kWarpgroup);
}

/// states, sums = the keys of one split, which are not none. The products of a tile's scores run beside those of the
/// tile before with V. `Parameters` have an op, whose cache has the columns of V, and boxKeys, of which V is copied.
template <typename S, typename Parameters>
__device__ __forceinline__ void attendSplit(Shared<S>& shared, Rings<S>& rings, const Parameters& p,
                                            const GroupTile& work, const OwnRows& rows, const KeyRange& range,
                                            SoftmaxState (&states)[2], float (&sums)[S::kSums]) {
  const ScoreUnit unit(p.op);
  float scores[S::kScores], factors[2];
  uint32_t weights[S::kSteps][4];
#pragma unroll
  for (SoftmaxState& state : states) state = {};
#pragma unroll
  for (float& sum : sums) sum = 0.0f;
  const auto releaseKeys = [&] {
    shared.keyChannel.release(rings.keys.stage);
    rings.keys.next();
  };
  const auto releaseValues = [&] {
    shared.valueChannel.release(rings.values.stage);
    rings.values.next();
  };
  shared.keyChannel.waitUntilFull(rings.keys);
  takeTurn<S>();
  multiplyKeys(shared, rings.keys.stage, scores);
  giveTurn<S>();
  waitForProducts<0>();
  releaseKeys();
  finishScores(p.op, rows, unit, range.first, scores);
  weighScores(scores, unit.log2, states, factors);
  roundWeights(scores, weights);
  int first = range.first + S::kKeys;
  for (; first < range.end; first += S::kKeys) {
    shared.keyChannel.waitUntilFull(rings.keys);
    takeTurn<S>();
    multiplyKeys(shared, rings.keys.stage, scores);
    shared.valueChannel.waitUntilFull(rings.values);
    multiplyValues(shared, rings.values.stage, weights, sums);
    giveTurn<S>();
    waitForProducts<1>();
    releaseKeys();
    finishScores(p.op, rows, unit, first, scores);
    weighScores(scores, unit.log2, states, factors);
    waitForProducts<0>();
    releaseValues();
    roundWeights(scores, weights);
    scaleSums(sums, factors);
  }
  shared.valueChannel.waitUntilFull(rings.values);
  if (range.end == work.keys.end) clearTail(shared, p, work, rings.values.stage, first - S::kKeys);
  multiplyValues(shared, rings.values.stage, weights, sums);
  waitForProducts<0>();
  releaseValues();
  finishStates(states, unit.scale);
}

/// Where a row of the result begins.
__device__ __forceinline__ float* resultOf(const PagodaAttention& op, const GroupTile& work, int row) {
  return rowOf(op.out, work.tile.firstToken + work.token(row)) +
         static_cast<int64_t>(work.head(row)) * op.cache.headDim;
}

/// Writes the rows of a warpgroup.
template <typename S>
__device__ __forceinline__ void writeRows(const PagodaAttention& op, const GroupTile& work, const OwnRows& rows,
                                          const SoftmaxState (&states)[2], const float (&sums)[S::kSums]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    if (!rows.present[r]) continue;
    const float factor = finalFactor(states[r], sinkOf(op.sinks, work.head(rows.row[r])));
    float* out = resultOf(op, work, rows.row[r]);
    forColumnsOf<S>(r, op.cache.headDim, [&](int column, int i) { out[column] = sums[i] * factor; });
  }
}

/// Leaves the partial result of a split.
template <typename S, typename Parameters>
__device__ __forceinline__ void leaveSplit(const Parameters& p, const GroupTile& work, const OwnRows& rows, int split,
                                           const SoftmaxState (&states)[2], const float (&sums)[S::kSums]) {
  const int64_t requests = p.op.batch.numRequests, heads = p.op.cache.numKvHeads;
  const int64_t first = ((split * requests + work.tile.request) * heads + work.kvHead) * p.partialRows;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    if (!rows.present[r]) continue;
    const int64_t index = first + rows.row[r];
    if (laneOf() % 4 == 0) p.partials.states[index] = states[r];
    if (states[r].largest == -kInfinity) continue;
    float* to = p.partials.sums + index * p.op.cache.headDim;
    forColumnsOf<S>(r, p.op.cache.headDim, [&](int column, int i) { to[column] = sums[i]; });
  }
}

/// sums = those of all splits so far, which wait in shared memory or, of heads that leave no room there, in the result,
/// whose elements are a thread's own.
template <typename S>
__device__ __forceinline__ void joinSplit(Shared<S>& shared, const PagodaAttention& op, const GroupTile& work,
                                          const OwnRows& rows, bool isFirst, bool isLast,
                                          const MergeFactors (&factors)[2], float (&sums)[S::kSums]) {
  const auto join = [&](float& total, int i) {
    sums[i] = mergeSums(isFirst ? 0.0f : total, sums[i], factors[rowOfElement(i)]);
    if (!isLast) total = sums[i];
  };
  if constexpr (S::kKeepsTotals) {
#pragma unroll
    for (int i = 0; i < S::kSums; ++i) join(shared.totals[i][threadIdx.x - kWarpgroup], i);
  } else {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (!rows.present[r]) continue;
      float* out = resultOf(op, work, rows.row[r]);
      forColumnsOf<S>(r, op.cache.headDim, [&](int column, int i) { join(out[column], i); });
    }
  }
}

/// Goes through some splits of a tile, one after the other: totals, sums = those of the row's splits so far. Where
/// there is no room in shared memory, a result that more splits follow has the sums.
template <typename S, typename Parameters>
__device__ __forceinline__ void attendSplits(Shared<S>& shared, const Parameters& p, const GroupTile& work,
                                             const OwnRows& rows, const SplitRange& splits, SoftmaxState (&totals)[2],
                                             float (&sums)[S::kSums]) {
  Rings<S> rings;
  SoftmaxState states[2];
  if (groupOf<S>() == 1) giveTurn<S>();
  for (int split = splits.first; split < splits.end; ++split) {
    attendSplit(shared, rings, p, work, rows, keysOfSplit<S>(work, split), states, sums);
    const MergeFactors factors[2] = {merge(totals[0], states[0]), merge(totals[1], states[1])};
    const bool isFirst = split == work.keys.first / kLongSplit, isLast = (split + 1) * kLongSplit >= work.keys.end;
    joinSplit(shared, p.op, work, rows, isFirst, isLast, factors, sums);
  }
  if (groupOf<S>() == 0) takeTurn<S>();  // the last one that was given
}

}  // namespace pagoda::cuda
