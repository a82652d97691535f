// Latent attention in its expanded form: keys and values are made of the latents, one split of 512 positions at a time,
// and query tiles of all heads attend to them before the next split is made. So the workspace does not grow with the
// prefix; heads are taken in groups where all of them together would need much of it.
//
// Keys and values are f32 products of the latents that attention sees, rounded to bf16 where a bf16 or int8 cache is
// multiplied in it. Splits are those of attention, their states are merged from the first to the last: the bits of a
// token depend on its position alone, not on how the tokens of its request are cut into steps that are computed in this
// form.
#include "mla-expanded.h"

#include "expanded-tile.h"
#include "flash-attention.h"
#include "kv-elements.h"
#include "packed-rows.h"

namespace pagoda::PAGODA_ISA {
namespace {

constexpr int64_t kGroupBytes = 32 << 20;  // of what grows with the heads of a group
constexpr int32_t kTokensPerTile = 128;

// ---- sizes and memory ------------------------------------------------------------------------------

struct Sizes {
  int32_t tokens;
  int32_t end;  // of the positions
  int32_t nopeDim;
  int32_t ropeDim;
  int32_t keyDim;
  int32_t valueDim;
  int32_t groupHeads;
  int32_t tokensPerTile;
  int32_t tiles;  // of queries
  Shape shape;    // of attention: each head is a KV head
};

template <class Products>
int64_t splitElements(int32_t keyDim, int32_t valueWidth) {
  using Split = ExpandedSplit<Products>;
  return kExpandedTiles * (Split::keyElements(keyDim) + Split::valueElements(valueWidth));
}

template <class Products>
Sizes sizesOf(const PagodaMlaAttention& op, const MlaPass& pass, int32_t threads) {
  Sizes s;
  s.tokens = pass.batch.numTokens;
  s.nopeDim = op.query.width / op.numHeads;
  s.ropeDim = op.cache.headDim - op.cache.latentDim;
  s.keyDim = s.nopeDim + s.ropeDim;
  s.valueDim = op.out.width / op.numHeads;
  s.end = 0;
  for (int32_t r = 0; r < pass.batch.numRequests; ++r) {
    if (pass.batch.queryStartLoc[r + 1] > pass.batch.queryStartLoc[r]) s.end = pass.batch.seqLens[r];
  }
  const int32_t valueWidth = static_cast<int32_t>(roundUp(s.valueDim, kLanes));
  const int64_t headBytes = splitElements<Products>(s.keyDim, valueWidth) * sizeof(typename Products::Tile::B) +
                            static_cast<int64_t>(s.tokens) * (s.keyDim + valueWidth + 4) * sizeof(float);
  const int64_t fitting = kGroupBytes / headBytes;
  s.groupHeads = fitting < 1 ? 1 : fitting < op.numHeads ? static_cast<int32_t>(fitting) : op.numHeads;
  const int32_t wanted = static_cast<int32_t>(ceilDiv(4 * threads, s.groupHeads));
  s.tokensPerTile = minimum(kTokensPerTile, maximum(kTokensPerTile / 4, s.tokens / wanted));
  s.tiles = static_cast<int32_t>(ceilDiv(s.tokens, s.tokensPerTile));
  s.shape = shapeOf(1, s.tokensPerTile, s.keyDim, s.valueDim, 1);
  return s;
}

// Of one worker, while keys and values are made: [kKeys] rows of a panel, and of what they are rounded to.
int64_t expandFloats(const Sizes& s) { return kKeys * (kPanelWidth + roundUp(maximum(kPanelWidth, s.ropeDim), 2)); }

template <class Products>
struct Memory {
  QueryTile* tiles;      // [tiles]
  int32_t* members;      // [tiles], 0, 1, ...
  AttentionPart* parts;  // [tiles], of one split
  float* latents;        // [kSplitKeys, latentDim + ropeDim]
  PackedRows forKeys;    // the latents, as keyExpand and valueUp want them
  PackedRows forValues;
  ExpandedSplit<Products> split;
  float* queries;  // [tokens, groupHeads, keyDim]
  float* states;
  float* workers;  // of attention, or of making keys and values
  uint64_t bytes;
};

template <class Products>
int64_t workerFloats(const Sizes& s) {
  const int64_t attention = scratchFloats(s.shape);
  const int64_t expand = roundUp(expandFloats(s), 16);
  return attention > expand ? attention : expand;
}

template <class Products>
Memory<Products> layOut(const PagodaMlaAttention& op, const Sizes& s, int32_t threads, void* memory) {
  using Split = ExpandedSplit<Products>;
  using Element = typename Split::Element;
  uint64_t offset = 0;
  const auto take = [&](int64_t bytes) {
    void* start = static_cast<char*>(memory) + offset;
    offset += roundUp(bytes, 64);
    return start;
  };
  const auto floats = [&](int64_t count) { return static_cast<float*>(take(sizeof(float) * count)); };
  const auto elements = [&](int64_t count) { return static_cast<Element*>(take(sizeof(Element) * count)); };
  const auto packed = [&](PagodaDtype dtype) {
    const uint64_t bytes = packedRowsBytes(dtype, kSplitKeys, op.cache.latentDim);
    return PackedRows{take(static_cast<int64_t>(bytes)), kSplitKeys, op.cache.latentDim, dtype};
  };
  const int64_t operands = static_cast<int64_t>(s.groupHeads) * kExpandedTiles;
  Memory<Products> m;
  m.tiles = static_cast<QueryTile*>(take(sizeof(QueryTile) * s.tiles));
  m.members = static_cast<int32_t*>(take(sizeof(int32_t) * s.tiles));
  m.parts = static_cast<AttentionPart*>(take(sizeof(AttentionPart) * s.tiles));
  m.latents = floats(static_cast<int64_t>(kSplitKeys) * op.cache.headDim);
  m.forKeys = packed(op.keyExpand.dtype);
  m.forValues = op.valueUp.dtype == op.keyExpand.dtype ? m.forKeys : packed(op.valueUp.dtype);
  m.split = {0,
             s.keyDim,
             s.valueDim,
             s.shape.valueWidth,
             elements(operands * Split::keyElements(s.keyDim)),
             elements(operands * Split::valueElements(s.shape.valueWidth))};
  m.queries = floats(static_cast<int64_t>(s.tokens) * s.groupHeads * s.keyDim);
  m.states = floats(stateFloats(s.shape, static_cast<int64_t>(s.tokens) * s.groupHeads));
  m.workers = floats(threads * workerFloats<Products>(s));
  m.bytes = offset;
  return m;
}

// ---- a group of heads ------------------------------------------------------------------------------

template <class Products>
struct Group {
  const KernelContext& context;
  const PagodaMlaAttention& op;
  const MlaPass& pass;
  const Sizes& sizes;
  const Memory<Products>& memory;
  int32_t firstHead;
  int32_t heads;

  int32_t firstRow() const { return pass.rows[0]; }  // the others follow
  const int32_t* blocks() const {
    int32_t request = 0;
    while (pass.batch.queryStartLoc[request + 1] == 0) ++request;
    return pass.batch.blockTable + static_cast<int64_t>(request) * pass.batch.maxBlocks;
  }
};

// Query heads as keys are: [queryRope | query].
template <class Products>
void joinQueries(const Group<Products>& group) {
  const Sizes& s = group.sizes;
  const auto copy = [](const float* from, int32_t width, float* to) {
    forVectors(width, [&](int32_t i, int n) { storeSome(to + i, loadSome(from + i, n), n); });
  };
  const int64_t width = static_cast<int64_t>(group.heads) * s.keyDim;
  parallelRows(group.context.pool, s.tokens, width, [&](int32_t token) {
    const float* rope = rowOf(group.op.queryRope, group.firstRow() + token) + group.firstHead * s.ropeDim;
    const float* nope = rowOf(group.op.query, group.firstRow() + token) + group.firstHead * s.nopeDim;
    float* to = group.memory.queries + token * width;
    for (int64_t h = 0; h < group.heads; ++h, to += s.keyDim) {
      copy(rope + h * s.ropeDim, s.ropeDim, to);
      copy(nope + h * s.nopeDim, s.nopeDim, to + s.ropeDim);
    }
  });
}

// Latents and rope keys of positions [first, first + count), as rows and as operands of the products with weights.
template <class Products>
void gatherLatents(const Group<Products>& group, int32_t first, int32_t count) {
  const PagodaKvCache& cache = group.op.cache;
  const Memory<Products>& m = group.memory;
  const int32_t* blocks = group.blocks();
  withElement(cache.dtype, [&](auto element) {
    using Element = decltype(element);
    parallelRows(group.context.pool, count, cache.headDim, [&](int32_t i) {
      const int32_t position = first + i;
      float* row = m.latents + static_cast<int64_t>(i) * cache.headDim;
      readLatentRow<Element>(cache, blocks[position / cache.blockSize], position % cache.blockSize, row);
      packRow(m.forKeys, i, row);
      if (m.forValues.data != m.forKeys.data) packRow(m.forValues, i, row);
    });
  });
}

// The panels of a stacked weight that have outputs of the group.
struct Panels {
  int32_t first;
  int32_t count;
};

template <class Products>
Panels panelsOf(const Group<Products>& group, int32_t outputs) {
  const int64_t begin = static_cast<int64_t>(group.firstHead) * outputs;
  const int64_t end = begin + static_cast<int64_t>(group.heads) * outputs;
  const int32_t first = static_cast<int32_t>(begin / kPanelWidth);
  return {first, static_cast<int32_t>(ceilDiv(end, kPanelWidth)) - first};
}

// One panel of a weight times the latents of one tile of keys; body(head, columns) for each head of the group that has
// outputs in the panel, `columns` being those of the head.
template <class Products, class Body>
void expandPanel(const Group<Products>& group, const PackedRows& latents, const PagodaWeight& weight, int32_t panel,
                 int32_t tile, int32_t count, float* sums, Body body) {
  multiplyPackedPanel(latents, tile * kKeys, count, weight, panel, sums);
  const int32_t outputs = weight.rows / group.op.numHeads;
  const int32_t begin = maximum(panel * kPanelWidth, group.firstHead * outputs);
  const int32_t end = minimum((panel + 1) * kPanelWidth, (group.firstHead + group.heads) * outputs);
  for (int32_t first = begin; first < end;) {
    const int32_t head = first / outputs;
    const int32_t width = minimum((head + 1) * outputs, end) - first;
    body(head - group.firstHead,
         Columns{sums + first % kPanelWidth, kPanelWidth, count, first - head * outputs, width});
    first += width;
  }
}

template <class Products>
void expandKeys(const Group<Products>& group, int32_t panel, int32_t tile, int32_t count, float* memory) {
  auto* rounded = reinterpret_cast<typename Products::Tile::A*>(memory + kKeys * kPanelWidth);
  expandPanel(group, group.memory.forKeys, group.op.keyExpand, panel, tile, count, memory,
              [&](int32_t head, Columns columns) {
                columns.column += group.sizes.ropeDim;
                storeKeys<Products>(columns, group.sizes.keyDim, rounded, group.memory.split.keysAt(head, tile));
              });
}

template <class Products>
void expandValues(const Group<Products>& group, int32_t panel, int32_t tile, int32_t count, float* memory) {
  const auto& split = group.memory.split;
  expandPanel(group, group.memory.forValues, group.op.valueUp, panel, tile, count, memory,
              [&](int32_t head, const Columns& columns) {
                storeValues<Products>(columns, split.valueWidth, split.valuesAt(head, tile));
              });
}

template <class Products>
void copyRopeKeys(const Group<Products>& group, int32_t head, int32_t tile, int32_t count, float* memory) {
  const PagodaKvCache& cache = group.op.cache;
  auto* rounded = reinterpret_cast<typename Products::Tile::A*>(memory);
  const float* rows = group.memory.latents + static_cast<int64_t>(tile) * kKeys * cache.headDim + cache.latentDim;
  storeKeys<Products>({rows, cache.headDim, count, 0, group.sizes.ropeDim}, group.sizes.keyDim, rounded,
                      group.memory.split.keysAt(head, tile));
}

// Keys and values of `count` positions: for each tile of keys, all panels of both weights and the rope keys of all
// heads are items. Those of a panel follow each other, so that it is in the cache.
template <class Products>
void expand(const Group<Products>& group, int32_t count) {
  const int32_t tiles = static_cast<int32_t>(ceilDiv(count, kKeys));
  const Panels keys = panelsOf(group, group.sizes.nopeDim), values = panelsOf(group, group.sizes.valueDim);
  auto items = [&](int32_t begin, int32_t end, int32_t worker) {
    float* memory = group.memory.workers + worker * workerFloats<Products>(group.sizes);
    for (int32_t item = begin; item < end; ++item) {
      const int32_t tile = item % tiles, index = item / tiles;
      const int32_t n = minimum(kKeys, count - tile * kKeys);
      if (index < keys.count) {
        expandKeys(group, keys.first + index, tile, n, memory);
      } else if (index < keys.count + values.count) {
        expandValues(group, values.first + index - keys.count, tile, n, memory);
      } else {
        copyRopeKeys(group, index - keys.count - values.count, tile, n, memory);
      }
    }
  };
  parallel(group.context.pool, (keys.count + values.count + group.heads) * tiles, tiles, items);
}

// ---- attention -------------------------------------------------------------------------------------

// All splits of a tile are merged into one state.
template <class Products>
void makeTiles(const Group<Products>& group) {
  const Sizes& s = group.sizes;
  for (int32_t i = 0; i < s.tiles; ++i) {
    const int32_t first = i * s.tokensPerTile;
    const int32_t tokens = minimum(s.tokensPerTile, s.tokens - first);
    const int32_t position = s.end - s.tokens + first;
    const int32_t splits = (position + tokens - 1) / kSplitKeys + 1;
    group.memory.tiles[i] = {0,      first,  tokens, position, 0,
                             splits, splits, 1,      0,        static_cast<int64_t>(first) * group.heads};
    group.memory.members[i] = i;
  }
}

// Calls body(work, states) for each query tile and head, about one split.
template <class Products, class Body>
void forTilesOfHeads(const Group<Products>& group, int32_t split, Body body) {
  using Cache = ExpandedCache<Products>;
  const PagodaMlaAttention& op = group.op;
  const Sizes& s = group.sizes;
  const Memory<Products>& m = group.memory;
  const int32_t heads = group.heads, outWidth = heads * s.valueDim, queryWidth = heads * s.keyDim;
  float* out = rowOf(op.out, group.firstRow()) + group.firstHead * s.valueDim;
  PagodaAttention attention = {};
  attention.out = {out, s.tokens, outWidth, op.out.rowStride, PAGODA_F32};
  attention.query = {m.queries, s.tokens, queryWidth, queryWidth, PAGODA_F32};
  attention.numHeads = heads;
  attention.scale = op.scale;
  AttentionSchedule schedule = {};
  schedule.tiles = m.tiles;
  schedule.members = m.members;
  schedule.parts = m.parts;
  schedule.numParts = s.tiles;
  schedule.tokensPerTile = s.tokensPerTile;
  const States states(s.shape, heads, static_cast<int64_t>(s.tokens) * heads, m.states);
  for (int32_t i = 0; i < s.tiles; ++i) m.parts[i] = {i, 1, m.tiles[i].tokens, split, split + 1, false, 0};
  auto items = [&](int32_t begin, int32_t end, int32_t worker) {
    const auto scratch = scratchOf<Products>(s.shape, false, m.workers + worker * workerFloats<Products>(s));
    for (int32_t item = begin; item < end; ++item) {
      const int32_t tile = item / heads;
      const Cache cache = {m.split, item % heads};
      body(Work<Products, Cache>{attention, s.shape, schedule, m.parts[tile], m.tiles[tile].position, cache, scratch},
           states);
    }
  };
  parallel(group.context.pool, s.tiles * heads, 1, items);
}

template <class Products>
void attendToSplit(const Group<Products>& group, int32_t split) {
  forTilesOfHeads(group, split, [split](const auto& work, const States& states) {
    if (split >= work.tile(0).endSplit) return;
    loadQueries(work);
    FlashState* total = states.of(work.tile(0), 0, work.cache.head);
    const int32_t rows = work.part.tokens * work.shape.group;
    if (split == 0) initRows(work.shape, total, rows);
    attendSplit(work, split, work.scratch.states);
    mergeRows(work.shape, total, work.scratch.states, rows);
  });
}

template <class Products>
void run(const KernelContext& context, const PagodaMlaAttention& op, const MlaPass& pass) {
  const int32_t threads = context.pool->threads();
  const Sizes sizes = sizesOf<Products>(op, pass, threads);
  Memory<Products> memory = layOut<Products>(op, sizes, threads, context.scratch);
  const int32_t splits = static_cast<int32_t>(ceilDiv(sizes.end, kSplitKeys));
  for (int32_t head = 0; head < op.numHeads; head += sizes.groupHeads) {
    const int32_t heads = minimum(sizes.groupHeads, op.numHeads - head);
    const Group<Products> group = {context, op, pass, sizes, memory, head, heads};
    makeTiles(group);
    joinQueries(group);
    for (int32_t split = 0; split < splits; ++split) {
      const int32_t first = split * kSplitKeys;
      const int32_t count = minimum(kSplitKeys, sizes.end - first);
      memory.split.split = split;
      gatherLatents(group, first, count);
      expand(group, count);
      attendToSplit(group, split);
    }
    forTilesOfHeads(group, splits, [](const auto& work, const States& states) {
      storeOutputs(work, states.of(work.tile(0), 0, work.cache.head));
    });
  }
}

}  // namespace

uint64_t mlaExpandedScratch(const PagodaMlaAttention& op, const MlaPass& pass, int32_t threads) {
  const auto bytes = [&](auto products) {
    using Products = decltype(products);
    return layOut<Products>(op, sizesOf<Products>(op, pass, threads), threads, nullptr).bytes;
  };
  return op.cache.dtype == PAGODA_F32 ? bytes(FloatProducts()) : bytes(Bf16Products());
}

void mlaExpanded(const KernelContext& context, const PagodaMlaAttention& op, const MlaPass& pass) {
  if (op.cache.dtype == PAGODA_F32) return run<FloatProducts>(context, op, pass);
  run<Bf16Products>(context, op, pass);
}

}  // namespace pagoda::PAGODA_ISA
