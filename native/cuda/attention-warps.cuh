// What warps do with tiles of K and V in shared memory, by m16n8k16 steps: a warp has 16 packed rows; q and the weights
// are rounded to bf16, sums are f32. Tiles are copied one ahead of the one that is multiplied.
#pragma once

#include "attention-fragments.cuh"

namespace pagoda::cuda {

constexpr int kStages = 2;

/// Heads are padded with zeros: q and K to kDim columns, V to kValueDim, multiples of 64. The widest ones leave no
/// registers for q and, where a block may have 99 KB of shared memory, no room there for the sums of the splits that
/// are done.
template <int kPaddedDim, int kPaddedValueDim = kPaddedDim>
struct Shape {
  static constexpr int kDim = kPaddedDim;
  static constexpr int kValueDim = kPaddedValueDim;
  static constexpr bool kIsWide = kDim > 128;
  static constexpr int kKeys = kIsWide ? 32 : 64;  // of a tile
  static constexpr int kScores = kKeys / 2;        // that a lane has
  static constexpr int kSums = kValueDim / 2;
  static_assert(kSplitKeys % kKeys == 0);

  using KeyTile = uint16_t[kKeys][kDim];
  using ValueTile = uint16_t[kKeys][kValueDim];
};

/// A tile of K and V, rows of bf16 whose 16-byte chunks are swizzled, chunk c of row r at c ^ (r % 8), so that eight
/// rows of a matrix come from different banks.
template <typename S>
struct KeysAndValues {
  typename S::KeyTile keys;
  typename S::ValueTile values;
};

/// A warp's 16 rows: lane l has parts of rows l / 4 and l / 4 + 8, which are `0` and `1` below.
template <typename S>
class WarpRows {
 public:
  static constexpr int kColumnTiles = S::kValueDim / 8;

  /// pairOf(row, column): where two columns of a row of q are, NULL where there are none. `query`: shared memory for
  /// the warp's rows of q, where they are kept there. The cache of `op` has the columns of V.
  template <typename PairOf>
  __device__ WarpRows(const PagodaAttention& op, const GroupTile& work, uint16_t* query, PairOf pairOf)
      : op_(op), work_(work), sharedQuery_(query) {
    firstRow_ = warpOf() * kWarpRows + laneOf() / 4;
#pragma unroll
    for (int i = 0; i < 2; ++i) seen_[i] = isPresent(i) ? work.visible(row(i), op.slidingWindow) : Visible{0, 0};
    loadQuery(pairOf);
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
  template <typename PairOf>
  __device__ void loadQuery(PairOf pairOf) {
#pragma unroll
    for (int k = 0; k < S::kDim / 16; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int column = 16 * k + 8 * (i / 2) + 2 * (laneOf() % 4);
        const float* x = isPresent(i % 2) ? pairOf(row(i % 2), column) : nullptr;
        const uint32_t rounded = x != nullptr ? packBf16(x[0], x[1]) : 0u;
        if constexpr (S::kIsWide) {
          const int line = laneOf() / 4 + 8 * (i % 2);
          uint16_t* to = sharedQuery_ + line * S::kDim + swizzled(line, column / 8) + column % 8;
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
  __device__ void multiplyKeys(const typename S::KeyTile& keys, float (&scores)[S::kScores]) const {
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

/// Goes through the keys of one split: load(stage, first) queues the copies of a tile, take(stage) gives it when they
/// are there. All threads of the block come here together.
template <typename S, typename Load, typename Take>
__device__ __forceinline__ void runSplit(const GroupTile& work, int split, WarpRows<S>& rows, Load load, Take take) {
  rows.reset();
  const int begin = max(split * kSplitKeys, work.keys.first / S::kKeys * S::kKeys);
  const int end = min((split + 1) * kSplitKeys, work.keys.end);
  if (begin < end) load(0, begin);
  commitCopies();
  for (int first = begin, tile = 0; first < end; first += S::kKeys, ++tile) {
    if (first + S::kKeys < end) load((tile + 1) % kStages, first + S::kKeys);
    commitCopies();
    waitForCopies<1>();
    __syncthreads();
    const KeysAndValues<S>& own = take(tile % kStages);
    if (rows.sees(first)) rows.attend(own, first);
    __syncthreads();
  }
  finishStates(rows.state);
}

/// Where the sums of a row's splits so far are: visit(total, element of the result, element of the sums) for what a
/// lane has of its row i. `totals`: a thread's own in shared memory, for heads that are not wide; others use the
/// result.
template <typename S, typename Visit>
__device__ __forceinline__ void forTotals(const PagodaAttention& op, const GroupTile& work, const WarpRows<S>& rows,
                                          int i, float* totals, int stride, Visit visit) {
  if (!rows.isPresent(i)) return;
  float* out = rowOf(op.out, work.tile.firstToken + work.token(rows.row(i))) +
               static_cast<int64_t>(work.head(rows.row(i))) * op.cache.headDim;
  rows.forEach(i, [&](int column, int element) {
    visit(S::kIsWide ? out[column] : totals[element * stride], out[column], element);
  });
}

}  // namespace pagoda::cuda
