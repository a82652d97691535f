// Causal paged attention over a ragged batch, as tiled flash attention.
//
// A query tile is some query tokens of one request and one KV head; the query heads of its group are rows of the tile
// beside each other, so K and V are read once for all of them. Keys are taken 64 at a time at absolute positions, and
// every kSplitKeys keys, again by absolute position, a new FlashState begins; the states are merged in order. So the
// bits of a row are decided by its own query, keys and position: not by other rows, chunking, the block size or the
// number of threads, and splits may be given to several workers (attention-schedule.h).
//
// K and V in bf16 are multiplied in bf16 where the processor has instructions for it. Queries and softmax weights are
// then rounded to bf16, too: the one moves a score by 2^-8 of the sum of |q k| at most, the other an output by 2^-8 of
// the largest |v|. Otherwise all products are f32. Codes of an int8 cache are multiplied like bf16, which they are
// exactly; scores and weights then take the scales of their keys.
//
// Only cache slots that some row of the tile attends to are read. Block ids are trusted.
#include "attention-schedule.h"
#include "flash-state.h"
#include "key-tile.h"

namespace pagoda::PAGODA_ISA {
namespace {

constexpr int32_t kKeyTilesSplit = kSplitKeys / kKeys;
constexpr int32_t kQueryRows = 128;  // aimed at in a tile: tokens times heads of the group

static_assert(kSplitKeys % kKeys == 0);

// Widths that follow from the op.
struct Shape {
  int32_t group;  // query heads of one KV head
  int32_t tokensPerTile;
  int32_t rows;        // largest number of rows of a tile
  int32_t queryWidth;  // headDim in whole pairs
  int32_t valueWidth;  // headDim in whole vectors
};

Shape shapeOf(const PagodaAttention& op) {
  const int32_t group = op.numHeads / op.cache.numKvHeads;
  const int32_t tokens = maximum(1, minimum(kQueryRows / group, op.batch.numTokens));
  return {group, tokens, tokens * group, static_cast<int32_t>(roundUp(op.cache.headDim, 2)),
          static_cast<int32_t>(roundUp(op.cache.headDim, kLanes))};
}

// ---- memory ----------------------------------------------------------------------------------------

static_assert(sizeof(FlashState) <= 4 * sizeof(float));

// Floats of the states of `rows` rows.
int64_t stateFloats(const Shape& shape, int64_t rows) { return roundUp(rows * (shape.valueWidth + 4), 16); }

// States at `memory`: their heads, then their sums one behind the other.
FlashState* statesAt(const Shape& shape, float* memory, int32_t rows) {
  FlashState* states = reinterpret_cast<FlashState*>(memory);
  for (int64_t r = 0; r < rows; ++r) states[r].o = memory + 4 * rows + r * shape.valueWidth;
  return states;
}

// One worker's memory.
template <class Products>
struct Scratch {
  using A = typename Products::Tile::A;

  A* query;           // [rows, queryWidth]
  A* weights;         // [kTileRows, kKeys], the left operand that follows from scores
  float* scores;      // [kTileRows, kKeys]
  FlashState* split;  // [rows], over the keys since the last split boundary
  FlashState* total;  // [rows]
  KeyTile<Products> tile;
};

// As many as any kind of products needs.
int64_t scratchFloats(const Shape& shape) {
  const int64_t rows = static_cast<int64_t>(shape.rows) * shape.queryWidth + (2 * kTileRows + 2) * kKeys;
  const int64_t tile = static_cast<int64_t>(shape.queryWidth + shape.valueWidth) * kKeys;
  return roundUp(rows + tile, 16) + 2 * stateFloats(shape, shape.rows);
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
  scratch.split = statesAt(shape, take(stateFloats(shape, shape.rows)), shape.rows);
  scratch.total = statesAt(shape, take(stateFloats(shape, shape.rows)), shape.rows);
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

// ---- one tile of keys ------------------------------------------------------------------------------

// A part for one KV head.
template <class Products, class Source>
struct Work {
  const PagodaAttention& op;
  const Shape& shape;
  const AttentionPart& part;
  HeadCache<Source> cache;
  const Scratch<Products>& scratch;
};

// Keys of a tile that a query token at `position` attends to.
Range visible(const PagodaAttention& op, int32_t position, int32_t tileStart) {
  const int32_t first = op.slidingWindow > 0 ? maximum(0, position - op.slidingWindow + 1) : 0;
  return {minimum(kKeys, maximum(0, first - tileStart)), maximum(0, minimum(kKeys, position + 1 - tileStart))};
}

// Those that tokens [first, last] of the part attend to, together.
Range visible(const PagodaAttention& op, const AttentionPart& part, int32_t first, int32_t last, int32_t tileStart) {
  return {visible(op, part.position + first, tileStart).begin, visible(op, part.position + last, tileStart).end};
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

// Scores, softmax and weighted values of rows [first, first + rows) against the gathered keys.
template <class Products, class Source>
void attendRows(const Work<Products, Source>& work, int32_t tileStart, int32_t first, int32_t rows) {
  using Tile = typename Products::Tile;
  constexpr int32_t kStep = Tile::kDepthPerStep;
  const auto& [op, shape, part, cache, scratch] = work;
  Range ranges[kTileRows];
  Range all = {kKeys, 0};
  for (int32_t r = 0; r < rows; ++r) {
    ranges[r] = visible(op, part.position + (first + r) / shape.group, tileStart);
    if (ranges[r].begin >= ranges[r].end) continue;
    all = {minimum(all.begin, ranges[r].begin), maximum(all.end, ranges[r].end)};
  }
  if (all.begin >= all.end) return;
  const int32_t vectors = static_cast<int32_t>(ceilDiv(all.end, kLanes));
  multiply<Tile>(rows, vectors, op.cache.headDim, scratch.query + static_cast<int64_t>(first) * shape.queryWidth,
                 shape.queryWidth, scratch.tile.keys, kKeys * kStep, scratch.scores, kKeys, false);
  for (int32_t r = 0; r < rows; ++r) {
    float* scores = scratch.scores + r * kKeys;
    softmaxRow(op, scores, vectors * kLanes, ranges[r], scratch.split[first + r], scratch.tile);
    Products::storeLeft(scratch.weights + r * kKeys, scores, vectors * kLanes);
  }
  const int32_t begin = all.begin - all.begin % kStep;
  multiply<Tile>(rows, shape.valueWidth / kLanes, all.end - begin, scratch.weights + begin, kKeys,
                 scratch.tile.values + static_cast<int64_t>(begin) * shape.valueWidth, shape.valueWidth * kStep,
                 scratch.split[first].o, shape.valueWidth, true);
}

// Tokens [first, last] of the part against the keys of one tile.
template <class Products, class Source>
void attendTokens(const Work<Products, Source>& work, int32_t tileStart, int32_t first, int32_t last) {
  const Range range = visible(work.op, work.part, first, last, tileStart);
  gatherKeys(work.cache, tileStart, range, work.scratch.tile);
  gatherValues(work.cache, tileStart, range, work.scratch.tile);
  gatherScales(work.cache, tileStart, range, work.scratch.tile);
  forRowBlocks((last + 1 - first) * work.shape.group,
               [&](int32_t r, int32_t n) { attendRows(work, tileStart, first * work.shape.group + r, n); });
}

template <class Products, class Source>
void attendTile(const Work<Products, Source>& work, int32_t tileStart) {
  const AttentionPart& part = work.part;
  const int32_t last = part.tokens - 1;
  const Range first = visible(work.op, part.position, tileStart);
  const Range all = visible(work.op, part, 0, last, tileStart);
  const bool sameRange = first.end == all.end && visible(work.op, part.position + last, tileStart).begin == first.begin;
  if (sameRange || allFinite(work.cache, tileStart, all)) return attendTokens(work, tileStart, 0, last);
  // A row must not meet an infinity or NaN at a position that it does not attend to, not even with weight zero.
  for (int32_t t = 0; t <= last; ++t) attendTokens(work, tileStart, t, t);
}

// ---- one work item ---------------------------------------------------------------------------------

template <class Products, class Source>
void loadQueries(const Work<Products, Source>& work) {
  const int64_t headDim = work.op.cache.headDim;
  for (int32_t r = 0; r < work.part.tokens * work.shape.group; ++r) {
    const int64_t head = static_cast<int64_t>(work.cache.head) * work.shape.group + r % work.shape.group;
    Products::storeLeft(work.scratch.query + static_cast<int64_t>(r) * work.shape.queryWidth,
                        rowOf(work.op.query, work.part.row + r / work.shape.group) + head * headDim,
                        work.op.cache.headDim);
  }
}

void storeOutputs(const PagodaAttention& op, const Shape& shape, const AttentionPart& part, int32_t kvHead,
                  const FlashState* states) {
  const int64_t headDim = op.cache.headDim;
  const float* sinks = static_cast<const float*>(op.sinks.data);
  for (int32_t r = 0; r < part.tokens * shape.group; ++r) {
    const int64_t head = static_cast<int64_t>(kvHead) * shape.group + r % shape.group;
    FlashState state = states[r];
    if (sinks != nullptr) state.l += exp(sinks[head] - state.m);
    normalize(state, rowOf(op.out, part.row + r / shape.group) + head * headDim, op.cache.headDim);
  }
}

// The keys of one split, into scratch.split.
template <class Products, class Source>
void attendSplit(const Work<Products, Source>& work, int32_t split) {
  const AttentionPart& part = work.part;
  const int32_t window = work.op.slidingWindow;
  const int32_t firstKey = window > 0 ? maximum(0, part.position - window + 1) : 0;
  const int32_t lastTile = (part.position + part.tokens - 1) / kKeys;
  const int32_t begin = maximum(firstKey / kKeys, split * kKeyTilesSplit);
  const int32_t end = minimum(lastTile + 1, (split + 1) * kKeyTilesSplit);
  for (int32_t r = 0; r < part.tokens * work.shape.group; ++r) init(work.scratch.split[r], work.shape.valueWidth);
  for (int32_t j = begin; j < end; ++j) attendTile(work, j * kKeys);
}

void mergeRows(const Shape& shape, FlashState* into, const FlashState* from, int32_t rows) {
  for (int32_t r = 0; r < rows; ++r) merge(into[r], from[r], shape.valueWidth);
}

// States of cut query tiles in shared memory, [split][KV head][rows].
class States {
 public:
  States(const PagodaAttention& op, const Shape& shape, float* memory) : op_(op), shape_(shape), memory_(memory) {}

  FlashState* of(const AttentionPart& part, int32_t split, int32_t kvHead) const {
    const int64_t index = part.firstState + static_cast<int64_t>(split - part.firstSplit) * op_.cache.numKvHeads;
    return statesAt(shape_, memory_ + (index + kvHead) * stateFloats(shape_, shape_.rows), shape_.rows);
  }

 private:
  const PagodaAttention& op_;
  const Shape& shape_;
  float* memory_;
};

template <class Products, class Source>
void attendPart(const PagodaAttention& op, const Shape& shape, const AttentionPart& part, int32_t kvHead,
                const States& states, Scratch<Products> scratch) {
  const int32_t rows = part.tokens * shape.group;
  const int32_t* blocks = op.batch.blockTable + static_cast<int64_t>(part.request) * op.batch.maxBlocks;
  const int32_t end = minimum(part.position + part.tokens, part.endSplit * kSplitKeys);
  const Work<Products, Source> work = {op, shape, part, {op.cache, blocks, kvHead, end}, scratch};
  loadQueries(work);
  const bool isWhole = part.firstState < 0;
  for (int32_t r = 0; r < rows; ++r) init(scratch.total[r], shape.valueWidth);
  for (int32_t split = part.firstSplit; split < part.endSplit; ++split) {
    if (!isWhole) scratch.split = states.of(part, split, kvHead);
    attendSplit(work, split);
    if (isWhole) mergeRows(shape, scratch.total, scratch.split, rows);
  }
  if (isWhole) storeOutputs(op, shape, part, kvHead, scratch.total);
}

// The result of a query tile that was cut.
void mergeSplits(const PagodaAttention& op, const Shape& shape, const AttentionPart& tile, int32_t kvHead,
                 const States& states, FlashState* total) {
  const int32_t rows = tile.tokens * shape.group;
  for (int32_t r = 0; r < rows; ++r) init(total[r], shape.valueWidth);
  for (int32_t split = tile.firstSplit; split < tile.endSplit; ++split) {
    mergeRows(shape, total, states.of(tile, split, kvHead), rows);
  }
  storeOutputs(op, shape, tile, kvHead, total);
}

// ---- the batch -------------------------------------------------------------------------------------

int64_t partFloats(int64_t parts) { return roundUp(parts * static_cast<int64_t>(sizeof(AttentionPart)) / 4, 16); }

template <class Products, class Source>
void attend(const KernelContext& context, const PagodaAttention& op) {
  const Shape shape = shapeOf(op);
  const int32_t threads = context.pool->threads();
  float* memory = static_cast<float*>(context.scratch);
  const int64_t most = mostAttentionParts(op.batch, shape.tokensPerTile, threads);
  AttentionPart* parts = reinterpret_cast<AttentionPart*>(memory);
  AttentionPart* cut = reinterpret_cast<AttentionPart*>(memory + partFloats(most));
  float* workers = memory + 2 * partFloats(most);
  const States states(op, shape, workers + threads * scratchFloats(shape));
  const AttentionSchedule schedule = scheduleAttention(op, shape.tokensPerTile, threads, parts, cut);
  const int32_t kvHeads = op.cache.numKvHeads;
  const bool hasScales = op.cache.dtype == PAGODA_INT8;
  auto runParts = [&](int32_t begin, int32_t end, int32_t worker) {
    const auto scratch = scratchOf<Products>(shape, hasScales, workers + worker * scratchFloats(shape));
    for (int32_t i = begin; i < end; ++i) {
      attendPart<Products, Source>(op, shape, parts[i / kvHeads], i % kvHeads, states, scratch);
    }
  };
  auto mergeTiles = [&](int32_t begin, int32_t end, int32_t worker) {
    const auto scratch = scratchOf<Products>(shape, hasScales, workers + worker * scratchFloats(shape));
    for (int32_t i = begin; i < end; ++i) {
      mergeSplits(op, shape, cut[i / kvHeads], i % kvHeads, states, scratch.total);
    }
  };
  parallel(context.pool, schedule.numParts * kvHeads, 1, runParts);
  parallel(context.pool, schedule.numCut * kvHeads, 1, mergeTiles);
}

}  // namespace

uint64_t attentionScratch(const PagodaAttention& op, int32_t threads) {
  const Shape shape = shapeOf(op);
  const int64_t most = mostAttentionParts(op.batch, shape.tokensPerTile, threads);
  const AttentionSchedule schedule = scheduleAttention(op, shape.tokensPerTile, threads, nullptr, nullptr);
  return sizeof(float) *
         (2 * partFloats(most) + threads * scratchFloats(shape) + schedule.numStates * stateFloats(shape, shape.rows));
}

void attention(const KernelContext& context, const PagodaAttention& op) {
  if (op.batch.numTokens == 0) return;
  switch (op.cache.dtype) {
    case PAGODA_BF16:
      return attend<Bf16Products, uint16_t>(context, op);
    case PAGODA_INT8:
      return attend<Bf16Products, int8_t>(context, op);
    default:
      return attend<FloatProducts, float>(context, op);
  }
}

}  // namespace pagoda::PAGODA_ISA
