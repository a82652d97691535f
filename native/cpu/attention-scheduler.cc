#include "attention-scheduler.h"

#include <algorithm>
#include <numeric>

#include "kv-layout.h"
#include "state-tree.h"

namespace pagoda {
namespace {

// Work items a worker that the schedule aims at: more of them even out what neighbours take of the machine.
constexpr int32_t kPartsPerThread = 4;
// What reading a key costs, in query rows that are multiplied with it.
constexpr int32_t kReadCost = 8;
// Rows of a part of several tiles at least, however many workers wait: fewer are not worth reading its keys for.
constexpr int32_t kFewestSharedRows = 4 * kReadCost;
// Rows that are aimed at in a tile: tokens times heads of the group.
constexpr int32_t kQueryRows = 128;
// Of states, of all tiles together; those that find no room are neither cut nor attended together with others.
constexpr int64_t kMostStateBytes = 64 << 20;

int64_t ceilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Where pieces of [first, end) may end: at multiples of a power of two, at most a quarter of an even piece, so that a
// piece has few nodes of the tree of states (state-tree.h).
int32_t grainOf(int32_t first, int32_t end, int64_t pieces) {
  int32_t grain = 1;
  while (8 * grain * pieces <= end - first) grain *= 2;
  return grain;
}

// Calls body(first, end) with each of about even pieces.
template <class Body>
void forPieces(int32_t first, int32_t end, int64_t pieces, Body body) {
  const int32_t grain = grainOf(first, end, pieces);
  for (int64_t i = 1, begin = first, next = 0; i <= pieces; ++i, begin = next) {
    next = i == pieces ? end : (first + (end - first) * i / pieces) / grain * grain;
    body(static_cast<int32_t>(begin), static_cast<int32_t>(next));
  }
}

class Scheduler {
 public:
  Scheduler(ScheduleMemory& to, const PagodaAttention& op, int32_t threads)
      : to_(to), op_(op), threads_(threads), group_(op.numHeads / op.cache.numKvHeads) {
    tokensPerTile_ = std::max(1, std::min(kQueryRows / group_, op.batch.numTokens));
    mostStateRows_ = kMostStateBytes / (static_cast<int64_t>(sizeof(float)) * (valueDim(op.cache) + 4));
  }

  AttentionSchedule schedule() {
    makeTiles();
    to_.shared.find(op_, to_.tiles, kQueryRows / 2 / group_);  // others have rows enough of their own
    share_ = ceilDiv(totalCost(), int64_t{kPartsPerThread} * threads_);
    to_.parts.clear();
    to_.finishes.clear();
    to_.stateBegins.clear();
    to_.members.resize(to_.tiles.size());
    std::iota(to_.members.begin(), to_.members.end(), 0);
    for (size_t i = 0; i < to_.tiles.size(); ++i) placeTile(static_cast<int32_t>(i));
    for (const SplitGroup& group : to_.shared.groups()) placeGroup(group);
    sortByCost(to_.parts);
    sortByCost(to_.finishes);
    return {.tiles = to_.tiles.data(),
            .members = to_.members.data(),
            .stateBegins = to_.stateBegins.data(),
            .parts = to_.parts.data(),
            .finishes = to_.finishes.data(),
            .numParts = static_cast<int32_t>(to_.parts.size()),
            .numFinishes = static_cast<int32_t>(to_.finishes.size()),
            .tokensPerTile = tokensPerTile_,
            .endSplit = endSplit_,
            .numStateRows = stateRows_};
  }

 private:
  // ---- costs: time that one KV head takes, in no unit ----

  int64_t rows(int64_t tokens) const { return tokens * group_; }

  // The first one that a token at `position` attends to.
  int32_t firstKey(int32_t position) const {
    return op_.slidingWindow > 0 ? std::max(0, position - op_.slidingWindow + 1) : 0;
  }

  int64_t costOf(const QueryTile& tile, int32_t firstSplit, int32_t endSplit) const {
    const int64_t first = std::max<int64_t>(firstKey(tile.position), int64_t{kSplitKeys} * firstSplit);
    const int64_t end = std::min<int64_t>(tile.position + tile.tokens, int64_t{kSplitKeys} * endSplit);
    return std::max<int64_t>(0, end - first) * (rows(tile.tokens) + kReadCost);
  }

  static int64_t costOf(int64_t splits, int64_t rows) { return splits * kSplitKeys * (rows + kReadCost); }

  int64_t totalCost() const {
    int64_t total = 0;
    for (const SplitGroup& group : to_.shared.groups()) {
      const int64_t reads = ceilDiv(group.tokens, tokensPerTile_);
      total += (group.endSplit - group.firstSplit) * int64_t{kSplitKeys} * (rows(group.tokens) + kReadCost * reads);
    }
    for (size_t i = 0; i < to_.tiles.size(); ++i) {
      const QueryTile& tile = to_.tiles[i];
      const SharedRange& shared = to_.shared.rangeOf(i);
      total += costOf(tile, tile.firstSplit, tile.endSplit);
      if (shared.firstGroup >= 0) total -= costOf(tile, shared.firstSplit, shared.endSplit);
    }
    return std::max<int64_t>(1, total) * op_.cache.numKvHeads;
  }

  // Of these splits, so that none takes longer than it should.
  int64_t numPieces(int64_t splits, int64_t cost) const {
    return std::clamp<int64_t>(ceilDiv(cost, share_), 1, std::max<int64_t>(1, splits));
  }

  static void sortByCost(std::vector<AttentionPart>& parts) {
    const auto takesLonger = [](const AttentionPart& a, const AttentionPart& b) { return a.cost > b.cost; };
    std::sort(parts.begin(), parts.end(), takesLonger);
  }

  // ---- tiles ----

  void makeTiles() {
    const PagodaBatch& batch = op_.batch;
    to_.tiles.clear();
    for (int32_t r = 0; r < batch.numRequests; ++r) {
      const int32_t end = batch.queryStartLoc[r + 1];
      for (int32_t row = batch.queryStartLoc[r]; row < end; row += tokensPerTile_) {
        const int32_t tokens = std::min(tokensPerTile_, end - row);
        const int32_t position = batch.seqLens[r] - (end - row);
        const int32_t first = firstKey(position) / kSplitKeys, last = (position + tokens - 1) / kSplitKeys;
        to_.tiles.push_back({r, row, tokens, position, first, first, last + 1, 0, 0, 0});
        endSplit_ = std::max(endSplit_, last + 1);
      }
    }
  }

  // Decides what of a tile is kept in states, and puts the parts that are the tile's alone: what is before the shared
  // splits (where a window begins), and behind them, which is left to the end unless it takes long.
  void placeTile(int32_t index) {
    QueryTile& tile = to_.tiles[index];
    const SharedRange& shared = to_.shared.rangeOf(index);
    const bool shares = shared.firstGroup >= 0;
    const int32_t sharedFirst = shares ? shared.firstSplit : tile.firstSplit;
    const int32_t ownSplit = shares ? shared.endSplit : tile.firstSplit;
    const int64_t pieces = numPieces(tile.endSplit - ownSplit, costOf(tile, ownSplit, tile.endSplit));
    tile.statesEnd = pieces > 1 ? tile.endSplit : ownSplit;
    tile.firstBegin = static_cast<int32_t>(to_.stateBegins.size());
    const auto keepNodes = [&](int32_t first, int32_t end) { putBegins(first, end); };
    keepNodes(tile.firstSplit, sharedFirst);
    if (shares) forGroups(index, [&](const SplitGroup& group) { forPiecesOf(group, keepNodes); });
    forPieces(ownSplit, tile.statesEnd, pieces, keepNodes);
    if (!takeStates(tile)) return putPart(to_.parts, index, tile.firstSplit, tile.endSplit, true);
    const auto putPiece = [&](int32_t first, int32_t end) {
      if (first < end) putPart(to_.parts, index, first, end, false);
    };
    putPiece(tile.firstSplit, sharedFirst);
    forPieces(ownSplit, tile.statesEnd, pieces, putPiece);
    putPart(to_.finishes, index, tile.statesEnd, tile.endSplit, true);
  }

  // A part that attends to splits [first, end) keeps a state for each of their nodes.
  void putBegins(int32_t first, int32_t end) {
    forNodes(first, end, [&](int32_t begin, int32_t) { to_.stateBegins.push_back(begin); });
  }

  // Takes room for the states of a tile, whose beginnings are the last ones; where there is none left, it has no
  // states. Returns whether it has any.
  bool takeStates(QueryTile& tile) {
    tile.numStates = static_cast<int32_t>(to_.stateBegins.size()) - tile.firstBegin;
    const int64_t stateRows = rows(tile.tokens) * tile.numStates * op_.cache.numKvHeads;
    if (stateRows_ + stateRows > mostStateRows_) {
      tile.statesEnd = tile.firstSplit;
      tile.numStates = 0;
      to_.stateBegins.resize(tile.firstBegin);
    }
    if (tile.numStates == 0) return false;
    tile.firstState = stateRows_;
    stateRows_ += stateRows;
    return true;
  }

  void putPart(std::vector<AttentionPart>& list, int32_t tile, int32_t firstSplit, int32_t endSplit, bool finishes) {
    const int64_t cost = costOf(to_.tiles[tile], firstSplit, endSplit);
    list.push_back({tile, 1, to_.tiles[tile].tokens, firstSplit, endSplit, finishes, cost});
  }

  // ---- groups of tiles ----

  // Most tokens of a part of a group: fewer where one split with all of them would already keep workers waiting.
  int32_t tokensPerPart() const {
    const int64_t most = std::max<int64_t>(kFewestSharedRows, share_ / kSplitKeys - kReadCost);
    return static_cast<int32_t>(std::clamp<int64_t>(most / group_, 1, tokensPerTile_));
  }

  int64_t piecesOf(const SplitGroup& group) const {
    const int64_t splits = group.endSplit - group.firstSplit;
    return numPieces(splits, costOf(splits, rows(std::min(group.tokens, tokensPerPart()))));
  }

  template <class Body>
  void forPiecesOf(const SplitGroup& group, Body body) const {
    forPieces(group.firstSplit, group.endSplit, piecesOf(group), body);
  }

  // Calls body with the groups of a tile, in order. Members of a group are in order, too.
  template <class Body>
  void forGroups(int32_t tile, Body body) const {
    const SharedRange& range = to_.shared.rangeOf(tile);
    const auto* members = to_.shared.members().data();
    for (int32_t g = range.firstGroup; g <= range.lastGroup; ++g) {
      const SplitGroup& group = to_.shared.groups()[g];
      const auto* end = members + group.endMember;
      if (std::binary_search(members + group.firstMember, end, tile)) body(group);
    }
  }

  // Puts the parts of a group, without the tiles that found no room for states: evenly filled ones, each cut in pieces.
  void placeGroup(const SplitGroup& group) {
    const int64_t even = ceilDiv(group.tokens, ceilDiv(group.tokens, tokensPerPart()));
    AttentionPart part = {static_cast<int32_t>(to_.members.size()), 0, 0, 0, 0, false, 0};
    for (int32_t m = group.firstMember; m < group.endMember; ++m) {
      const int32_t index = to_.shared.members()[m];
      const QueryTile& tile = to_.tiles[index];
      if (tile.numStates == 0) continue;
      if (part.tokens + tile.tokens > tokensPerTile_) putPieces(group, part);
      to_.members.push_back(index);
      part.numMembers += 1;
      part.tokens += tile.tokens;
      if (part.tokens >= even) putPieces(group, part);
    }
    if (part.numMembers > 0) putPieces(group, part);
  }

  // Puts a part of a group and begins the next one.
  void putPieces(const SplitGroup& group, AttentionPart& part) {
    forPiecesOf(group, [&](int32_t first, int32_t end) {
      part.firstSplit = first;
      part.endSplit = end;
      part.cost = costOf(end - first, rows(part.tokens));
      to_.parts.push_back(part);
    });
    part = {part.firstMember + part.numMembers, 0, 0, 0, 0, false, 0};
  }

  ScheduleMemory& to_;
  const PagodaAttention& op_;
  int32_t threads_;
  int32_t group_;  // query heads of one KV head
  int32_t tokensPerTile_;
  int32_t endSplit_ = 0;
  int64_t share_ = 1;  // of the total cost, that a part should not exceed
  int64_t stateRows_ = 0;
  int64_t mostStateRows_;
};

}  // namespace

AttentionSchedule AttentionScheduler::schedule(const PagodaAttention& op, int32_t threads) {
  return Scheduler(memory_, op, threads).schedule();
}

}  // namespace pagoda
