#include "attention-schedule.h"

#include <algorithm>

namespace pagoda {
namespace {

// Work items a worker that the schedule aims at: more of them even out what neighbours take of the machine.
constexpr int32_t kPartsPerThread = 4;
// What reading a key costs, in query rows that are multiplied with it.
constexpr int32_t kReadCost = 8;
// Of states that cut query tiles may take together; more is not cut.
constexpr int64_t kMostStateRows = 1 << 16;

int64_t ceilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

class Scheduler {
 public:
  Scheduler(const PagodaAttention& op, int32_t tokensPerTile) : op_(op), tokensPerTile_(tokensPerTile) {}

  // Calls body(tile) with each query tile of the batch as a part.
  template <class Body>
  void forTiles(Body body) const {
    const PagodaBatch& batch = op_.batch;
    for (int32_t r = 0; r < batch.numRequests; ++r) {
      const int32_t end = batch.queryStartLoc[r + 1];
      for (int32_t row = batch.queryStartLoc[r]; row < end; row += tokensPerTile_) {
        const int32_t tokens = std::min(tokensPerTile_, end - row);
        const int32_t position = batch.seqLens[r] - (end - row);
        const int32_t window = op_.slidingWindow;
        const int32_t firstKey = window > 0 ? std::max(0, position - window + 1) : 0;
        body(AttentionPart{r, row, tokens, position, firstKey / kSplitKeys, (position + tokens - 1) / kSplitKeys + 1,
                           -1});
      }
    }
  }

  int64_t rows(const AttentionPart& part) const {
    return static_cast<int64_t>(part.tokens) * (op_.numHeads / op_.cache.numKvHeads);
  }

  // Time that one KV head of a part takes, in no unit.
  int64_t cost(const AttentionPart& part) const {
    const int32_t window = op_.slidingWindow;
    const int64_t firstKey = window > 0 ? std::max(0, part.position - window + 1) : 0;
    const int64_t first = std::max(firstKey, int64_t{kSplitKeys} * part.firstSplit);
    const int64_t end = std::min<int64_t>(part.position + part.tokens, int64_t{kSplitKeys} * part.endSplit);
    return std::max<int64_t>(1, end - first) * (rows(part) + kReadCost);
  }

  int64_t totalCost() const {
    int64_t total = 0;
    forTiles([&](const AttentionPart& tile) { total += cost(tile); });
    return total * op_.cache.numKvHeads;
  }

 private:
  const PagodaAttention& op_;
  int32_t tokensPerTile_;
};

}  // namespace

int64_t mostAttentionParts(const PagodaBatch& batch, int32_t tokensPerTile, int32_t threads) {
  return batch.numTokens / tokensPerTile + batch.numRequests + static_cast<int64_t>(kPartsPerThread) * threads;
}

AttentionSchedule scheduleAttention(const PagodaAttention& op, int32_t tokensPerTile, int32_t threads,
                                    AttentionPart* parts, AttentionPart* cut) {
  const Scheduler scheduler(op, tokensPerTile);
  const int64_t share = ceilDiv(scheduler.totalCost(), static_cast<int64_t>(kPartsPerThread) * threads);
  AttentionSchedule schedule = {0, 0, 0};
  int64_t stateRows = 0;
  auto put = [](AttentionPart* list, int32_t& count, const AttentionPart& part) {
    if (list != nullptr) list[count] = part;
    ++count;
  };
  scheduler.forTiles([&](AttentionPart tile) {
    const int64_t splits = tile.endSplit - tile.firstSplit;
    const int64_t pieces = std::min(splits, ceilDiv(scheduler.cost(tile), share));
    const int64_t states = splits * op.cache.numKvHeads;
    if (pieces <= 1 || stateRows + states * scheduler.rows(tile) > kMostStateRows) {
      return put(parts, schedule.numParts, tile);
    }
    tile.firstState = schedule.numStates;
    put(cut, schedule.numCut, tile);
    schedule.numStates += states;
    stateRows += states * scheduler.rows(tile);
    for (int64_t i = 0; i < pieces; ++i) {
      AttentionPart part = tile;
      part.firstSplit = tile.firstSplit + static_cast<int32_t>(splits * i / pieces);
      part.endSplit = tile.firstSplit + static_cast<int32_t>(splits * (i + 1) / pieces);
      part.firstState += static_cast<int64_t>(part.firstSplit - tile.firstSplit) * op.cache.numKvHeads;
      put(parts, schedule.numParts, part);
    }
  });
  if (parts == nullptr) return schedule;
  std::sort(parts, parts + schedule.numParts,
            [&](const AttentionPart& a, const AttentionPart& b) { return scheduler.cost(a) > scheduler.cost(b); });
  return schedule;
}

}  // namespace pagoda
