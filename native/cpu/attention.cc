// Causal paged attention over a ragged batch, as tiled flash attention.
//
// A work item is some query tokens of one request and one KV head; the query heads of its group are rows of the tile
// beside each other, so K and V are read once for all of them. Keys are taken 64 at a time at absolute positions
// [64 j, 64 j + 64), gathered through the block table into contiguous scratch. Every 512 keys, again by absolute
// position, a new FlashState begins, and the states are merged in order. So the bits of a row are decided by its own
// query, keys and position: not by other rows, chunking, the block size or the number of threads, and a later split of
// long contexts over workers gives the same.
//
// Only cache slots that some row of the tile attends to are read. Block ids are trusted.
#include "flash-state.h"
#include "kv-layout.h"
#include "tile.h"

namespace pagoda::PAGODA_ISA {
namespace {

constexpr int32_t kKeys = 64;          // of a tile
constexpr int32_t kKeyTilesSplit = 8;  // tiles of one FlashState
constexpr int32_t kQueryRows = 128;    // aimed at in a tile: tokens times heads of the group

static_assert(kKeys % kLanes == 0);

// Widths that follow from the op.
struct Shape {
  int32_t group;  // query heads of one KV head
  int32_t tokensPerTile;
  int32_t rows;        // largest number of rows of a tile
  int32_t valueWidth;  // headDim in whole vectors
};

Shape shapeOf(const PagodaAttention& op) {
  const int32_t group = op.numHeads / op.cache.numKvHeads;
  const int32_t tokens = maximum(1, minimum(kQueryRows / group, op.batch.numTokens));
  return {group, tokens, tokens * group, static_cast<int32_t>(roundUp(op.cache.headDim, kLanes))};
}

// One worker's memory.
struct Scratch {
  float* query;       // [rows, headDim]
  float* keys;        // [headDim, kKeys]
  float* values;      // [kKeys, valueWidth]
  float* scores;      // [kTileRows, kKeys]
  FlashState* split;  // [rows], over the keys since the last split boundary
  FlashState* total;  // [rows]
};

int64_t scratchFloats(const PagodaAttention& op, const Shape& shape) {
  const int64_t headDim = op.cache.headDim;
  const int64_t states = 2 * static_cast<int64_t>(shape.rows) * (shape.valueWidth + 4);
  return roundUp(shape.rows * headDim + (headDim + shape.valueWidth + kTileRows) * kKeys + states, 16);
}

Scratch scratchOf(const PagodaAttention& op, const Shape& shape, float* memory) {
  auto take = [&](int64_t floats) {
    float* start = memory;
    memory += floats;
    return start;
  };
  Scratch scratch;
  scratch.split = reinterpret_cast<FlashState*>(take(4 * static_cast<int64_t>(shape.rows)));
  scratch.total = reinterpret_cast<FlashState*>(take(4 * static_cast<int64_t>(shape.rows)));
  scratch.keys = take(static_cast<int64_t>(op.cache.headDim) * kKeys);
  scratch.values = take(static_cast<int64_t>(kKeys) * shape.valueWidth);
  scratch.scores = take(kTileRows * kKeys);
  scratch.query = take(static_cast<int64_t>(shape.rows) * op.cache.headDim);
  for (int32_t r = 0; r < shape.rows; ++r) {
    scratch.split[r].o = take(shape.valueWidth);
  }
  for (int32_t r = 0; r < shape.rows; ++r) {
    scratch.total[r].o = take(shape.valueWidth);
  }
  return scratch;
}

static_assert(sizeof(FlashState) <= 4 * sizeof(float));

// A work item: `tokens` query tokens of one request for one KV head.
struct QueryTile {
  int32_t head;  // KV head
  int32_t row;   // of the first token in query and out
  int32_t tokens;
  int32_t position;       // of the first token
  const int32_t* blocks;  // block table of the request
};

// Positions [begin, end) of a key tile that a query row attends to, relative to the tile's first.
struct Range {
  int32_t begin;
  int32_t end;
};

Range visible(const PagodaAttention& op, int32_t position, int32_t tileStart) {
  const int32_t first = op.slidingWindow > 0 ? maximum(0, position - op.slidingWindow + 1) : 0;
  return {maximum(0, first - tileStart), minimum(kKeys, position + 1 - tileStart)};
}

// ---- gather ----------------------------------------------------------------------------------------

// Copies rows of n elements, as f32: one vector of columns after the other.
template <class Element>
void copyRows(const Element* from, int64_t fromStride, int32_t rows, int32_t n, float* to, int64_t toStride) {
  int32_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t r = 0; r < rows; ++r) store(to + r * toStride + i, loadSome(from + r * fromStride + i, kLanes));
  }
  if (i == n) return;
  for (int64_t r = 0; r < rows; ++r) {
    storePartial(to + r * toStride + i, loadSome(from + r * fromStride + i, n - i), n - i);
  }
}

// Keys and values of positions [begin, end) of the tile that starts at tileStart.
template <class Element>
void gather(const PagodaAttention& op, const Shape& shape, const QueryTile& tile, int32_t tileStart, Range range,
            const Scratch& scratch) {
  const PagodaKvCache& cache = op.cache;
  const Element* elements = static_cast<const Element*>(cache.data);
  for (int32_t i = range.begin; i < range.end;) {
    const int32_t position = tileStart + i;
    const int32_t block = tile.blocks[position / cache.blockSize];
    const int32_t offset = position % cache.blockSize;
    const int32_t n = minimum(cache.blockSize - offset, range.end - i);
    const Element* keys = elements + keyOffset(cache, block, tile.head) + offset;
    copyRows(keys, cache.blockSize, cache.headDim, n, scratch.keys + i, kKeys);
    const Element* values =
        elements + valueOffset(cache, block, tile.head) + static_cast<int64_t>(offset) * cache.headDim;
    copyRows(values, cache.headDim, n, cache.headDim, scratch.values + static_cast<int64_t>(i) * shape.valueWidth,
             shape.valueWidth);
    i += n;
  }
}

// Whether all values of the range are finite: then a weight of zero leaves a sum as it is.
bool allFinite(const Scratch& scratch, const Shape& shape, int32_t headDim, Range range) {
  f32v zeros = zero();
  for (int64_t i = range.begin; i < range.end; ++i) {
    forVectors(headDim, [&](int32_t d, int n) {
      zeros = fma(loadSome(scratch.values + i * shape.valueWidth + d, n), zero(), zeros);
    });
  }
  return sum(zeros) == 0.0f;
}

// ---- one tile of keys ------------------------------------------------------------------------------

// Turns a row of scores into weights exp(score - m), zero outside the range, and brings the state to the new m and l.
void softmaxRow(const PagodaAttention& op, float* scores, int32_t columns, Range range, FlashState& state,
                int32_t valueWidth) {
  if (range.begin >= range.end) return forVectors(columns, [&](int32_t i, int) { store(scores + i, zero()); });
  const f32v masked = broadcast(-__builtin_inff());
  const f32v cap = broadcast(op.softcap);
  f32v largest = masked;
  forVectors(columns, [&](int32_t i, int) {
    f32v v = mul(load(scores + i), broadcast(op.scale));
    if (op.softcap > 0.0f) v = mul(tanh(div(v, cap)), cap);
    if (range.begin > i || range.end < i + kLanes) v = keepLanes(v, range.begin - i, range.end - i, masked);
    store(scores + i, v);
    largest = max(largest, v);
  });
  const float m = maxOf(largest);
  rescale(state, state.m > m ? state.m : m, valueWidth);
  f32v weights = zero();
  forVectors(columns, [&](int32_t i, int) {
    const f32v weight = exp(sub(load(scores + i), broadcast(state.m)));
    store(scores + i, weight);
    weights = add(weights, weight);
  });
  state.l += sum(weights);
}

// Scores, softmax and weighted values of rows [first, first + rows) against the gathered keys.
void attendRows(const PagodaAttention& op, const Shape& shape, const QueryTile& tile, int32_t tileStart, int32_t first,
                int32_t rows, const Scratch& scratch) {
  const int32_t headDim = op.cache.headDim;
  Range ranges[kTileRows];
  Range all = {kKeys, 0};
  for (int32_t r = 0; r < rows; ++r) {
    ranges[r] = visible(op, tile.position + (first + r) / shape.group, tileStart);
    if (ranges[r].begin >= ranges[r].end) continue;
    all = {minimum(all.begin, ranges[r].begin), maximum(all.end, ranges[r].end)};
  }
  if (all.begin >= all.end) return;
  const int32_t vectors = static_cast<int32_t>(ceilDiv(all.end, kLanes));
  multiply<FloatTile>(rows, vectors, headDim, scratch.query + static_cast<int64_t>(first) * headDim, headDim,
                      scratch.keys, kKeys, scratch.scores, kKeys, false);
  for (int32_t r = 0; r < rows; ++r) {
    softmaxRow(op, scratch.scores + r * kKeys, vectors * kLanes, ranges[r], scratch.split[first + r], shape.valueWidth);
  }
  multiply<FloatTile>(rows, shape.valueWidth / kLanes, all.end - all.begin, scratch.scores + all.begin, kKeys,
                      scratch.values + static_cast<int64_t>(all.begin) * shape.valueWidth, shape.valueWidth,
                      scratch.split[first].o, shape.valueWidth, true);
}

void attendTile(const PagodaAttention& op, const Shape& shape, const QueryTile& tile, int32_t tileStart,
                const Scratch& scratch) {
  const Range first = visible(op, tile.position, tileStart);
  const Range last = visible(op, tile.position + tile.tokens - 1, tileStart);
  const Range range = {first.begin, last.end};
  if (op.cache.dtype == PAGODA_BF16) {
    gather<uint16_t>(op, shape, tile, tileStart, range, scratch);
  } else {
    gather<float>(op, shape, tile, tileStart, range, scratch);
  }
  const int32_t rows = tile.tokens * shape.group;
  // A row must not meet an infinity or NaN at a position that it does not attend to, not even with weight zero.
  const bool sameRange = first.begin == last.begin && first.end == last.end;
  if (sameRange || allFinite(scratch, shape, op.cache.headDim, range)) {
    forRowBlocks(rows, [&](int32_t r, int32_t n) { attendRows(op, shape, tile, tileStart, r, n, scratch); });
  } else {
    for (int32_t r = 0; r < rows; ++r) attendRows(op, shape, tile, tileStart, r, 1, scratch);
  }
}

// ---- one work item ---------------------------------------------------------------------------------

void loadQueries(const PagodaAttention& op, const Shape& shape, const QueryTile& tile, const Scratch& scratch) {
  const int64_t width = static_cast<int64_t>(shape.group) * op.cache.headDim;
  for (int32_t t = 0; t < tile.tokens; ++t) {
    __builtin_memcpy(scratch.query + t * width, rowOf(op.query, tile.row + t) + tile.head * width,
                     sizeof(float) * static_cast<size_t>(width));
  }
}

void storeOutputs(const PagodaAttention& op, const Shape& shape, const QueryTile& tile, const Scratch& scratch) {
  const int64_t headDim = op.cache.headDim;
  for (int32_t r = 0; r < tile.tokens * shape.group; ++r) {
    const int64_t head = static_cast<int64_t>(tile.head) * shape.group + r % shape.group;
    normalize(scratch.total[r], rowOf(op.out, tile.row + r / shape.group) + head * headDim, op.cache.headDim);
  }
}

void attend(const PagodaAttention& op, const Shape& shape, const QueryTile& tile, const Scratch& scratch) {
  const int32_t rows = tile.tokens * shape.group;
  loadQueries(op, shape, tile, scratch);
  for (int32_t r = 0; r < rows; ++r) init(scratch.total[r], shape.valueWidth);
  for (int32_t r = 0; r < rows; ++r) init(scratch.split[r], shape.valueWidth);
  auto closeSplit = [&] {
    for (int32_t r = 0; r < rows; ++r) merge(scratch.total[r], scratch.split[r], shape.valueWidth);
    for (int32_t r = 0; r < rows; ++r) init(scratch.split[r], shape.valueWidth);
  };
  const int32_t firstKey = op.slidingWindow > 0 ? maximum(0, tile.position - op.slidingWindow + 1) : 0;
  const int32_t firstTile = firstKey / kKeys;
  const int32_t lastTile = (tile.position + tile.tokens - 1) / kKeys;
  for (int32_t j = firstTile; j <= lastTile; ++j) {
    if (j > firstTile && j % kKeyTilesSplit == 0) closeSplit();
    attendTile(op, shape, tile, j * kKeys, scratch);
  }
  closeSplit();
  storeOutputs(op, shape, tile, scratch);
}

// ---- work items ------------------------------------------------------------------------------------

// firstTile[r]: number of query tiles of the requests before r.
void countTiles(const PagodaAttention& op, const Shape& shape, int32_t* firstTile) {
  firstTile[0] = 0;
  for (int32_t r = 0; r < op.batch.numRequests; ++r) {
    const int64_t tokens = op.batch.queryStartLoc[r + 1] - op.batch.queryStartLoc[r];
    firstTile[r + 1] = firstTile[r] + static_cast<int32_t>(ceilDiv(tokens, shape.tokensPerTile));
  }
}

// The request that a query tile belongs to: the last one with firstTile <= tile.
int32_t requestOf(const int32_t* firstTile, int32_t numRequests, int32_t tile) {
  int32_t low = 0;
  int32_t high = numRequests;
  while (high - low > 1) {
    const int32_t middle = low + (high - low) / 2;
    (firstTile[middle] <= tile ? low : high) = middle;
  }
  return low;
}

QueryTile queryTile(const PagodaAttention& op, const Shape& shape, const int32_t* firstTile, int32_t index,
                    int32_t head) {
  const PagodaBatch& batch = op.batch;
  const int32_t request = requestOf(firstTile, batch.numRequests, index);
  const int32_t start = batch.queryStartLoc[request];
  const int32_t tokens = batch.queryStartLoc[request + 1] - start;
  const int32_t skipped = (index - firstTile[request]) * shape.tokensPerTile;
  return {
      .head = head,
      .row = start + skipped,
      .tokens = minimum(shape.tokensPerTile, tokens - skipped),
      .position = batch.seqLens[request] - tokens + skipped,
      .blocks = batch.blockTable + static_cast<int64_t>(request) * batch.maxBlocks,
  };
}

int64_t firstTileFloats(const PagodaAttention& op) { return roundUp(op.batch.numRequests + 1, 16); }

}  // namespace

uint64_t attentionScratch(const PagodaAttention& op, int32_t threads) {
  return sizeof(float) * (firstTileFloats(op) + threads * scratchFloats(op, shapeOf(op)));
}

void attention(const KernelContext& context, const PagodaAttention& op) {
  if (op.batch.numTokens == 0) return;
  const Shape shape = shapeOf(op);
  int32_t* firstTile = static_cast<int32_t*>(context.scratch);
  float* memory = static_cast<float*>(context.scratch) + firstTileFloats(op);
  countTiles(op, shape, firstTile);
  const int32_t tiles = firstTile[op.batch.numRequests];
  auto items = [&](int32_t begin, int32_t end, int32_t worker) {
    const Scratch scratch = scratchOf(op, shape, memory + worker * scratchFloats(op, shape));
    for (int32_t item = begin; item < end; ++item) {
      // From the back, where a prompt's tiles have the most keys.
      const int32_t index = tiles - 1 - item / op.cache.numKvHeads;
      attend(op, shape, queryTile(op, shape, firstTile, index, item % op.cache.numKvHeads), scratch);
    }
  };
  parallel(context.pool, tiles * op.cache.numKvHeads, 1, items);
}

}  // namespace pagoda::PAGODA_ISA
