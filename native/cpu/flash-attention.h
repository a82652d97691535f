// Tiled flash attention over a ragged batch, for any source of keys and values.
//
// A query tile is some query tokens of one request and one KV head; the query heads of its group are rows of the tile
// beside each other, so K and V are read once for all of them. Keys are taken 64 at a time at absolute positions, and
// every kSplitKeys keys, again by absolute position, a new FlashState begins; the states are merged in the order of a
// tree over absolute positions (state-tree.h). So the bits of a row are decided by its own query, keys and position:
// not by other rows, chunking, the block size or the number of threads. So splits may be given to several workers, and
// query tiles of several requests may attend to the splits that they have in the same blocks as one part
// (attention-schedule.h).
//
// Only cache slots that some row of the tile attends to are read. Included by files compiled per instruction set.
#ifndef PAGODA_CPU_FLASH_ATTENTION_H
#define PAGODA_CPU_FLASH_ATTENTION_H

#include "attention-schedule.h"
#include "flash-state.h"
#include "key-tile.h"
#include "state-tree.h"

namespace pagoda::PAGODA_ISA {
namespace {

constexpr int32_t kKeyTilesSplit = kSplitKeys / kKeys;

static_assert(kSplitKeys % kKeys == 0);

// Widths that follow from the op.
struct Shape {
  int32_t group;       // query heads of one KV head
  int32_t rows;        // largest number of rows of a part
  int32_t keyDim;      // columns of K and of a query head
  int32_t valueDim;    // columns of V and of an output head
  int32_t queryWidth;  // keyDim in whole pairs
  int32_t valueWidth;  // valueDim in whole vectors
  int32_t levels;      // of states that a worker may hold at once
};

Shape shapeOf(int32_t group, int32_t tokensPerTile, int32_t keyDim, int32_t valueDim, int32_t levels) {
  return {group,
          tokensPerTile * group,
          keyDim,
          valueDim,
          static_cast<int32_t>(roundUp(keyDim, 2)),
          static_cast<int32_t>(roundUp(valueDim, kLanes)),
          levels};
}

Shape shapeOf(const PagodaAttention& op, const AttentionSchedule& schedule) {
  return shapeOf(op.numHeads / op.cache.numKvHeads, schedule.tokensPerTile, op.cache.headDim, valueDim(op.cache),
                 stackedStates(schedule.endSplit));
}

// ---- memory ----------------------------------------------------------------------------------------

static_assert(sizeof(FlashState) <= 4 * sizeof(float));

// Floats of the states of `rows` rows.
int64_t stateFloats(const Shape& shape, int64_t rows) { return roundUp(rows * (shape.valueWidth + 4), 16); }

// States at `memory`, their heads before their sums: rows [first, first + count) of `rows`.
FlashState* statesAt(const Shape& shape, float* memory, int64_t rows, int64_t first, int64_t count) {
  FlashState* states = reinterpret_cast<FlashState*>(memory) + first;
  for (int64_t r = 0; r < count; ++r) states[r].o = memory + 4 * rows + (first + r) * shape.valueWidth;
  return states;
}

// One worker's memory.
template <class Products>
struct Scratch {
  using A = typename Products::Tile::A;

  A* query;            // [rows, queryWidth]
  A* weights;          // [kTileRows, kKeys], the left operand that follows from scores
  float* scores;       // [kTileRows, kKeys]
  FlashState* states;  // [levels, rows]
  KeyTile<Products> tile;
};

// As many as any kind of products needs.
int64_t scratchFloats(const Shape& shape) {
  const int64_t rows = static_cast<int64_t>(shape.rows) * shape.queryWidth + (2 * kTileRows + 2) * kKeys;
  const int64_t tile = static_cast<int64_t>(shape.queryWidth + shape.valueWidth) * kKeys;
  return roundUp(rows + tile, 16) + stateFloats(shape, static_cast<int64_t>(shape.levels) * shape.rows);
}

template <class Products>
Scratch<Products> scratchOf(const Shape& shape, bool hasScales, float* memory) {
  auto take = [&](int64_t floats) {
    float* start = memory;
    memory += floats;
    return start;
  };
  using A = typename Products::Tile::A;
  using B = typename Products::Tile::B;
  Scratch<Products> scratch;
  const int64_t states = static_cast<int64_t>(shape.levels) * shape.rows;
  scratch.states = statesAt(shape, take(stateFloats(shape, states)), states, 0, states);
  scratch.tile.keys = reinterpret_cast<B*>(take(static_cast<int64_t>(shape.queryWidth) * kKeys));
  scratch.tile.values = reinterpret_cast<B*>(take(static_cast<int64_t>(shape.valueWidth) * kKeys));
  scratch.tile.valueWidth = shape.valueWidth;
  scratch.tile.keyScales = hasScales ? take(kKeys) : nullptr;
  scratch.tile.valueScales = hasScales ? take(kKeys) : nullptr;
  scratch.scores = take(kTileRows * kKeys);
  scratch.weights = reinterpret_cast<A*>(take(kTileRows * kKeys));
  scratch.query = reinterpret_cast<A*>(take(static_cast<int64_t>(shape.rows) * shape.queryWidth));
  return scratch;
}

// States of query tiles, in memory that the workers share.
class States {
 public:
  States(const Shape& shape, int32_t kvHeads, int64_t rows, float* memory)
      : shape_(shape), kvHeads_(kvHeads), rows_(rows), memory_(memory) {}

  // [rows of the tile]
  FlashState* of(const QueryTile& tile, int32_t state, int32_t kvHead) const {
    const int64_t rows = static_cast<int64_t>(tile.tokens) * shape_.group;
    const int64_t first = tile.firstState + (static_cast<int64_t>(state) * kvHeads_ + kvHead) * rows;
    return statesAt(shape_, memory_, rows_, first, rows);
  }

 private:
  const Shape& shape_;
  int32_t kvHeads_;
  int64_t rows_;
  float* memory_;
};

// ---- one tile of keys ------------------------------------------------------------------------------

// A part for one KV head. Its rows are those of its tiles, one behind the other.
template <class Products, class Cache>
struct Work {
  const PagodaAttention& op;
  const Shape& shape;
  const AttentionSchedule& schedule;
  const AttentionPart& part;
  int32_t position;  // of the first token of the first tile
  Cache cache;       // with `blocks`, `head` and `end` of this part
  const Scratch<Products>& scratch;

  const QueryTile& tile(int32_t member) const { return schedule.tiles[schedule.members[part.firstMember + member]]; }
};

// Keys of a tile that a query token at `position` attends to.
Range visible(const PagodaAttention& op, int32_t position, int32_t tileStart) {
  const int32_t first = op.slidingWindow > 0 ? maximum(0, position - op.slidingWindow + 1) : 0;
  return {minimum(kKeys, maximum(0, first - tileStart)), maximum(0, minimum(kKeys, position + 1 - tileStart))};
}

// Those that tokens [first, last] of the part attend to, together. Several tiles see all keys of their splits.
template <class Products, class Cache>
Range visible(const Work<Products, Cache>& work, int32_t first, int32_t last, int32_t tileStart) {
  if (work.part.numMembers > 1) return {0, kKeys};
  return {visible(work.op, work.position + first, tileStart).begin,
          visible(work.op, work.position + last, tileStart).end};
}

// Turns a row of scores into weights exp(score - m), zero outside the range, and brings the state to the new m and l.
template <class Products>
void softmaxRow(const PagodaAttention& op, float* scores, int32_t columns, Range range, FlashState& state,
                const KeyTile<Products>& tile) {
  if (range.begin >= range.end) return forVectors(columns, [&](int32_t i, int) { store(scores + i, zero()); });
  const f32v masked = broadcast(-__builtin_inff());
  const f32v cap = broadcast(op.softcap);
  f32v largest = masked;
  forVectors(columns, [&](int32_t i, int) {
    f32v v = mul(load(scores + i), broadcast(op.scale));
    if (tile.keyScales != nullptr) v = mul(v, load(tile.keyScales + i));
    if (op.softcap > 0.0f) v = mul(tanh(div(v, cap)), cap);
    if (range.begin > i || range.end < i + kLanes) v = keepLanes(v, range.begin - i, range.end - i, masked);
    store(scores + i, v);
    largest = max(largest, v);
  });
  const float m = maxOf(largest);
  rescale(state, state.m > m ? state.m : m, tile.valueWidth);
  f32v weights = zero();
  forVectors(columns, [&](int32_t i, int) {
    const f32v weight = exp(sub(load(scores + i), broadcast(state.m)));
    store(scores + i, tile.valueScales != nullptr ? mul(weight, load(tile.valueScales + i)) : weight);
    weights = add(weights, weight);
  });
  state.l += sum(weights);
}

// Scores, softmax and weighted values of rows [first, first + rows) against the keys of a tile, into `states` [rows of
// the part].
template <class Products, class Cache>
void attendRows(const Work<Products, Cache>& work, const KeyTile<Products>& tile, int32_t tileStart, FlashState* states,
                int32_t first, int32_t rows) {
  using Tile = typename Products::Tile;
  constexpr int32_t kStep = Tile::kDepthPerStep;
  const Shape& shape = work.shape;
  const Scratch<Products>& scratch = work.scratch;
  Range ranges[kTileRows];
  Range all = {kKeys, 0};
  for (int32_t r = 0; r < rows; ++r) {
    const int32_t token = (first + r) / shape.group;
    ranges[r] = visible(work, token, token, tileStart);
    if (ranges[r].begin >= ranges[r].end) continue;
    all = {minimum(all.begin, ranges[r].begin), maximum(all.end, ranges[r].end)};
  }
  if (all.begin >= all.end) return;
  const int32_t vectors = static_cast<int32_t>(ceilDiv(all.end, kLanes));
  multiply<Tile>(rows, vectors, shape.keyDim, scratch.query + static_cast<int64_t>(first) * shape.queryWidth,
                 shape.queryWidth, tile.keys, kKeys * kStep, {nullptr, 0, scratch.scores, kKeys});
  for (int32_t r = 0; r < rows; ++r) {
    float* scores = scratch.scores + r * kKeys;
    softmaxRow(work.op, scores, vectors * kLanes, ranges[r], states[first + r], tile);
    Products::storeLeft(scratch.weights + r * kKeys, scores, vectors * kLanes);
  }
  const int32_t begin = all.begin - all.begin % kStep;
  float* sums = states[first].o;
  multiply<Tile>(rows, shape.valueWidth / kLanes, all.end - begin, scratch.weights + begin, kKeys,
                 tile.values + static_cast<int64_t>(begin) * shape.valueWidth, shape.valueWidth * kStep,
                 {sums, shape.valueWidth, sums, shape.valueWidth});
}

// The operands of a tile, for keys of `range`. Caches that have them ready do without `memory`.
template <class Products, class Cache>
KeyTile<Products> gatherTile(const Cache& cache, int32_t tileStart, Range range, const KeyTile<Products>& memory) {
  gatherKeys(cache, tileStart, range, memory);
  gatherValues(cache, tileStart, range, memory);
  gatherScales(cache, tileStart, range, memory);
  return memory;
}

// Tokens [first, last] of the part against the keys of one tile.
template <class Products, class Cache>
void attendTokens(const Work<Products, Cache>& work, int32_t tileStart, FlashState* states, int32_t first,
                  int32_t last) {
  const Range range = visible(work, first, last, tileStart);
  const KeyTile<Products> tile = gatherTile(work.cache, tileStart, range, work.scratch.tile);
  forRowBlocks((last + 1 - first) * work.shape.group, [&](int32_t r, int32_t n) {
    attendRows(work, tile, tileStart, states, first * work.shape.group + r, n);
  });
}

template <class Products, class Cache>
void attendTile(const Work<Products, Cache>& work, int32_t tileStart, FlashState* states) {
  const int32_t last = work.part.tokens - 1;
  const Range all = visible(work, 0, last, tileStart);
  const bool sameRange =
      visible(work, 0, 0, tileStart).end == all.end && visible(work, last, last, tileStart).begin == all.begin;
  if (sameRange || allFinite(work.cache, tileStart, all)) return attendTokens(work, tileStart, states, 0, last);
  // A row must not meet an infinity or NaN at a position that it does not attend to, not even with weight zero.
  for (int32_t t = 0; t <= last; ++t) attendTokens(work, tileStart, states, t, t);
}

// ---- one work item ---------------------------------------------------------------------------------

// Calls body(tile, firstRow, rows) for each query tile of the part.
template <class Products, class Cache, class Body>
void forTiles(const Work<Products, Cache>& work, Body body) {
  int32_t first = 0;
  for (int32_t m = 0; m < work.part.numMembers; ++m) {
    const int32_t rows = work.tile(m).tokens * work.shape.group;
    body(work.tile(m), first, rows);
    first += rows;
  }
}

// The query head of row `r` of a query tile.
int64_t queryHead(const Shape& shape, int32_t kvHead, int32_t r) {
  return static_cast<int64_t>(kvHead) * shape.group + r % shape.group;
}

template <class Products, class Cache>
void loadQueries(const Work<Products, Cache>& work) {
  const auto& [op, shape, schedule, part, position, cache, scratch] = work;
  forTiles(work, [&](const QueryTile& tile, int32_t first, int32_t rows) {
    for (int32_t r = 0; r < rows; ++r) {
      const float* query = rowOf(op.query, tile.row + r / shape.group) + queryHead(shape, cache.head, r) * shape.keyDim;
      Products::storeLeft(scratch.query + static_cast<int64_t>(first + r) * shape.queryWidth, query, shape.keyDim);
    }
  });
}

// The states are not needed after it.
template <class Products, class Cache>
void storeOutputs(const Work<Products, Cache>& work, FlashState* states) {
  const auto& [op, shape, schedule, part, position, cache, scratch] = work;
  const float* sinks = static_cast<const float*>(op.sinks.data);
  const int32_t width = shape.valueDim;
  for (int32_t r = 0; r < part.tokens * shape.group; ++r) {
    const int64_t head = queryHead(shape, cache.head, r);
    if (sinks != nullptr) addSink(states[r], sinks[head], shape.valueWidth);
    normalize(states[r], rowOf(op.out, work.tile(0).row + r / shape.group) + head * width, width);
  }
}

void initRows(const Shape& shape, FlashState* states, int32_t rows) {
  for (int32_t r = 0; r < rows; ++r) init(states[r], shape.valueWidth);
}

void mergeRows(const Shape& shape, FlashState* into, const FlashState* from, int32_t rows) {
  for (int32_t r = 0; r < rows; ++r) merge(into[r], from[r], shape.valueWidth);
}

inline void copyRows(const Shape& shape, FlashState* to, const FlashState* from, int32_t rows) {
  for (int32_t r = 0; r < rows; ++r) {
    to[r].m = from[r].m;
    to[r].l = from[r].l;
    forVectors(shape.valueWidth, [&](int32_t i, int) { store(to[r].o + i, load(from[r].o + i)); });
  }
}

// Tiles of keys of one split that some token of the part sees.
template <class Products, class Cache>
Range keyTiles(const Work<Products, Cache>& work, int32_t split) {
  const Range all = {split * kKeyTilesSplit, (split + 1) * kKeyTilesSplit};
  if (work.part.numMembers > 1) return all;
  const int32_t window = work.op.slidingWindow;
  const int32_t firstKey = window > 0 ? maximum(0, work.position - window + 1) : 0;
  const int32_t lastKey = work.position + work.part.tokens - 1;
  return {maximum(all.begin, firstKey / kKeys), minimum(all.end, lastKey / kKeys + 1)};
}

// Asks for all keys and values of the first tile at once, else each block would be waited for in turn.
template <class Products, class Cache>
void prefetchFirst(const Work<Products, Cache>& work) {
  const int32_t tileStart = keyTiles(work, work.part.firstSplit).begin * kKeys;
  prefetchTile(work.cache, tileStart, visible(work, 0, work.part.tokens - 1, tileStart));
}

// The keys of one split, into `states` [rows of the part].
template <class Products, class Cache>
void attendSplit(const Work<Products, Cache>& work, int32_t split, FlashState* states) {
  initRows(work.shape, states, work.part.tokens * work.shape.group);
  const Range tiles = keyTiles(work, split);
  for (int32_t j = tiles.begin; j < tiles.end; ++j) attendTile(work, j * kKeys, states);
}

// Merges states of `rows` rows.
inline auto mergerOf(const Shape& shape, int32_t rows) {
  return [&shape, rows](FlashState* into, const FlashState* from) { mergeRows(shape, into, from, rows); };
}

// Splits [first, end), on top of the states that are on the stack.
template <class Products, class Cache>
void pushSplits(const Work<Products, Cache>& work, int32_t first, int32_t end, StateStack<FlashState>& stack) {
  const Shape& shape = work.shape;
  for (int32_t split = first; split < end; ++split) {
    FlashState* states = work.scratch.states + static_cast<int64_t>(stack.size()) * shape.rows;
    attendSplit(work, split, states);
    stack.push(states, split, split + 1, mergerOf(shape, work.part.tokens * shape.group));
  }
}

// Takes states [rows of the part] over into those of its tiles that begin at split `begin`.
template <class Products, class Cache>
void keepStates(const Work<Products, Cache>& work, const States& states, int32_t begin, const FlashState* from) {
  forTiles(work, [&](const QueryTile& tile, int32_t first, int32_t rows) {
    const int32_t* begins = work.schedule.stateBegins + tile.firstBegin;
    int32_t state = 0;
    while (begins[state] != begin) ++state;
    copyRows(work.shape, states.of(tile, state, work.cache.head), from + first, rows);
  });
}

// The splits of the part, a state for each node of the tree.
template <class Products, class Cache>
void attendNodes(const Work<Products, Cache>& work, const States& states) {
  forNodes(work.part.firstSplit, work.part.endSplit, [&](int32_t begin, int32_t end) {
    StateStack<FlashState> stack;
    pushSplits(work, begin, end, stack);
    keepStates(work, states, begin, stack.mergeAll(mergerOf(work.shape, work.part.tokens * work.shape.group)));
  });
}

// The result of a query tile: its states, then the splits of the part.
template <class Products, class Cache>
void finishTile(const Work<Products, Cache>& work, const States& states) {
  const QueryTile& tile = work.tile(0);
  const auto merge = mergerOf(work.shape, tile.tokens * work.shape.group);
  const int32_t* begins = work.schedule.stateBegins + tile.firstBegin;
  StateStack<FlashState> stack;
  for (int32_t i = 0; i < tile.numStates; ++i) {
    const int32_t end = i + 1 < tile.numStates ? begins[i + 1] : tile.statesEnd;
    stack.push(states.of(tile, i, work.cache.head), begins[i], end, merge);
  }
  pushSplits(work, work.part.firstSplit, work.part.endSplit, stack);
  storeOutputs(work, stack.mergeAll(merge));
}

template <class Products, class Cache>
void attendPart(const PagodaAttention& op, const Shape& shape, const AttentionSchedule& schedule,
                const AttentionPart& part, Cache cache, const States& states, const Scratch<Products>& scratch) {
  const QueryTile& tile = schedule.tiles[schedule.members[part.firstMember]];
  cache.blocks = op.batch.blockTable + static_cast<int64_t>(tile.request) * op.batch.maxBlocks;
  const int64_t endOfSplits = static_cast<int64_t>(part.endSplit) * kSplitKeys;
  const int32_t endOfTile = tile.position + tile.tokens;
  cache.end = endOfTile < endOfSplits ? endOfTile : static_cast<int32_t>(endOfSplits);
  const Work<Products, Cache> work = {op, shape, schedule, part, tile.position, cache, scratch};
  if (part.firstSplit < part.endSplit) {
    prefetchFirst(work);
    loadQueries(work);
  }
  if (part.finishes) return finishTile(work, states);
  attendNodes(work, states);
}

// ---- the batch -------------------------------------------------------------------------------------

template <class Products, class Cache>
void attend(const KernelContext& context, const PagodaAttention& op, const AttentionSchedule& schedule, Cache cache) {
  const Shape shape = shapeOf(op, schedule);
  const int32_t kvHeads = op.cache.numKvHeads;
  const bool hasScales = op.cache.dtype == PAGODA_INT8 && op.cache.latentDim == 0;
  float* workers = static_cast<float*>(context.scratch);
  const States states(shape, kvHeads, schedule.numStateRows, workers + context.pool->threads() * scratchFloats(shape));
  auto runPass = [&](const AttentionPart* parts, int32_t count) {
    auto runParts = [&](int32_t begin, int32_t end, int32_t worker) {
      const auto scratch = scratchOf<Products>(shape, hasScales, workers + worker * scratchFloats(shape));
      for (int32_t i = begin; i < end; ++i) {
        Cache head = cache;
        head.head = i % kvHeads;
        attendPart<Products, Cache>(op, shape, schedule, parts[i / kvHeads], head, states, scratch);
      }
    };
    parallel(context.pool, count * kvHeads, 1, runParts);
  };
  runPass(schedule.parts, schedule.numParts);
  runPass(schedule.finishes, schedule.numFinishes);
}

}  // namespace
}  // namespace pagoda::PAGODA_ISA

#endif
