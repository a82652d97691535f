// What attention by wgmma and TMA shares: what a thread knows of its rows, pages as boxes of the copy engine, and how
// blocks that stay find their work.
#pragma once

#include "attention-softmax.cuh"
#include "ring.cuh"

namespace pagoda::cuda {

/// Keys [first, end): positions, or rows of a tile.
struct KeyRange {
  int32_t first, end;
};

/// What a thread knows of its two rows.
struct OwnRows {
  int row[2];       // of the tile
  bool present[2];  // the others are zeros, and nobody reads what becomes of them
  Visible seen[2];
  Visible byAll;  // keys that all present rows of the warpgroup see

  __device__ OwnRows(const GroupTile& work, int window, int group) {
    const int first = kWarpgroupRows * group, last = min(work.tile.count, first + kWarpgroupRows) - 1;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      row[i] = first + resultRow(threadIdx.x % kWarpgroup, 2 * i);
      present[i] = row[i] < work.tile.count;
      seen[i] = present[i] ? work.visible(row[i], window) : Visible{0, INT32_MAX};
    }
    byAll = {0, INT32_MAX};
    if (first <= last) byAll = {work.visible(last, window).first, work.visible(first, window).end};
  }

  __device__ __forceinline__ bool allSee(int first, int end) const { return byAll.first <= first && end <= byAll.end; }
};

/// How scores are counted: as they come out of the product where that is all that happens to them.
struct ScoreUnit {
  bool isPlain;
  float scale;  // of a score
  float log2;   // the same for 2^x

  __device__ explicit ScoreUnit(const PagodaAttention& op)
      : isPlain(op.softcap == 0.0f && op.scale > 0.0f), scale(isPlain ? op.scale : 1.0f), log2(scale * kLog2e) {}
};

/// Scores of a tile of keys as they are counted, -Inf where a row does not see the key.
template <int kCount>
__device__ __forceinline__ void finishScores(const PagodaAttention& op, const OwnRows& rows, const ScoreUnit& unit,
                                             int first, float (&scores)[kCount]) {
  constexpr int kTileKeys = 2 * kCount;
  if (unit.isPlain && rows.allSee(first, first + kTileKeys)) return;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const int position = first + resultColumn(threadIdx.x % kWarpgroup, i);
    const Visible& seen = rows.seen[rowOfElement(i)];
    if (!unit.isPlain) scores[i] = finishScore(scores[i], op, seen, position);
    if (!isSeen(seen, position)) scores[i] = -kInfinity;
  }
}

template <int kSteps>
__device__ __forceinline__ void roundWeights(const float (&scores)[8 * kSteps], uint32_t (&weights)[kSteps][4]) {
#pragma unroll
  for (int k = 0; k < kSteps; ++k) packWeights(scores, k, weights[k]);
}

/// Keys of a page, or of a part of it, that one copy takes: a divisor of both, at least 8.
inline int32_t chooseBoxKeys(int32_t blockSize, int32_t tileKeys) {
  int32_t keys = 8;
  while (keys < tileKeys && blockSize % (2 * keys) == 0) keys *= 2;
  return keys;
}

/// Rows of the tile from `first` on that lie behind the end of the request but were copied with its last box. What is
/// there may be anything, and weights of 0 do not hide NaN.
__device__ __forceinline__ KeyRange tailOf(const PagodaAttention& op, const GroupTile& work, int boxKeys, int first,
                                           int tileKeys) {
  const int copied = static_cast<int>(roundUp(work.keys.end, boxKeys));
  return {op.batch.seqLens[work.tile.request] - first, min(tileKeys, copied - first)};
}

/// Zeros for these rows of a tile, by `threads` threads; nobody may read them before those have met.
template <int kPanels, int kTileKeys>
__device__ void clearKeys(uint16_t (&tile)[kPanels][kTileKeys][kTileColumns], const KeyRange& rows, int thread,
                          int threads) {
  const int chunks = (rows.end - rows.first) * (kTileColumns / 8);
  for (int i = thread; i < kPanels * chunks; i += threads) {
    const int chunk = i % chunks;
    uint16_t* to = &tile[i / chunks][rows.first + chunk / 8][chunk % 8 * 8];
    *reinterpret_cast<uint4*>(to) = make_uint4(0, 0, 0, 0);
  }
  publishShared();
}

/// Finds the items of a batch, one request after the other. A warp searches together, and only forwards.
class ItemSearch {
 public:
  /// Sets the request and which of its items number `index` is; false where there is none.
  template <typename CountOf>
  __device__ bool find(int requests, int index, CountOf countOf, int* request, int* item) {
    for (; first_ < requests; first_ += kWarp) {
      const int own = first_ + laneOf(), count = own < requests ? countOf(own) : 0;
      int through = count;
      for (int lanes = 1; lanes < kWarp; lanes *= 2) {
        const int others = __shfl_up_sync(kAllLanes, through, lanes);
        if (laneOf() >= lanes) through += others;
      }
      through += before_;
      const unsigned behind = __ballot_sync(kAllLanes, through > index);
      if (behind != 0) {
        const int lane = __ffs(static_cast<int>(behind)) - 1;
        *request = first_ + lane;
        *item = index - __shfl_sync(kAllLanes, through - count, lane);
        return true;
      }
      before_ = __shfl_sync(kAllLanes, through, kWarp - 1);
    }
    return false;
  }

 private:
  int first_ = 0;   // of the 32 requests that the warp is at
  int before_ = 0;  // items of those before
};

}  // namespace pagoda::cuda
