// 64 keys and values at absolute positions [64 j, 64 j + 64), gathered through a block table as right operands of the
// products of attention. Included by files compiled per instruction set.
#ifndef PAGODA_CPU_KEY_TILE_H
#define PAGODA_CPU_KEY_TILE_H

#include "isa-kernels.h"
#include "kv-layout.h"
#include "tile.h"

namespace pagoda::PAGODA_ISA {
namespace {

constexpr int32_t kKeys = 64;

static_assert(kKeys % kLanes == 0);

// Positions [begin, end) of a key tile, relative to its first.
struct Range {
  int32_t begin;
  int32_t end;
};

// Products in f32, whatever the cache holds: it is widened exactly.
struct FloatProducts {
  using Tile = FloatTile;
  static void storeLeft(float* to, const float* from, int32_t n) {
    forVectors(n, [&](int32_t i, int count) { storeSome(to + i, loadSome(from + i, count), count); });
  }
  PAGODA_INLINE static void storeStep(float* to, f32v row, f32v, int n) { storeSome(to, row, n); }
  PAGODA_INLINE static f32v rounded(f32v v) { return v; }
};

#if defined(__AVX512BF16__)

// Products of bf16: what the cache holds is one exactly, queries and weights are rounded to it. Sums are f32.
struct Bf16Products {
  using Tile = Bf16Tile;
  // `to` has room for n + n % 2 elements.
  static void storeLeft(uint16_t* to, const float* from, int32_t n) {
    forVectors(n, [&](int32_t i, int count) { roundToBf16(to + i, from + i, count); });
    if (n % 2 != 0) to[n] = 0;
  }
  // Of numbers that are rounded.
  PAGODA_INLINE static void storeStep(uint16_t* to, f32v even, f32v odd, int n) { storeBf16Pairs(to, even, odd, n); }
  PAGODA_INLINE static f32v rounded(f32v v) { return roundToBf16(v); }
  // Words of two neighbours each.
  PAGODA_INLINE static u32v roundedPairs(f32v first, f32v second) {
    return reinterpret_cast<u32v>(roundToBf16Pairs(first, second));
  }
};

#else

using Bf16Products = FloatProducts;

#endif

// Operands in scratch memory; a step is one or two rows beside each other (Tile::kDepthPerStep).
template <class Products>
struct KeyTile {
  using Element = typename Products::Tile::B;
  static constexpr int32_t kStep = Products::Tile::kDepthPerStep;

  Element* keys;       // [steps of headDim][kKeys][kStep]
  Element* values;     // [kKeys / kStep][valueWidth][kStep]
  int32_t valueWidth;  // headDim in whole vectors
  // Of an int8 cache, [kKeys]: what scores and weights are multiplied with. Else NULL.
  float* keyScales;
  float* valueScales;
};

// Calls body(first, n, block, offset) for each stretch of `range` that lies in one block.
template <class Body>
PAGODA_INLINE void forStretches(const PagodaKvCache& cache, const int32_t* blocks, int32_t tileStart, Range range,
                                Body body) {
  for (int32_t i = range.begin; i < range.end;) {
    const int32_t position = tileStart + i;
    const int32_t offset = position % cache.blockSize;
    const int32_t n = minimum(cache.blockSize - offset, range.end - i);
    body(i, n, blocks[position / cache.blockSize], offset);
    i += n;
  }
}

// One KV head of one request in a cache of Source elements.
template <class Source>
struct HeadCache {
  const PagodaKvCache& cache;
  const int32_t* blocks;  // block table of the request
  int32_t head;
  int32_t end;  // positions from here on are not asked for ahead

  // [headDim], dimensions blockSize apart; the next offset is the next element.
  const Source* keys(int32_t block, int32_t offset) const {
    return kvElements<Source>(cache, keyPart(cache, block, head)) + offset;
  }
  // [headDim] side by side; the next offset is headDim elements on.
  const Source* values(int32_t block, int32_t offset) const {
    return kvElements<Source>(cache, valuePart(cache, block, head)) + static_cast<int64_t>(offset) * cache.headDim;
  }

  // Those of the position one tile behind `position`, which will be read next; of `position` itself at the end.
  const Source* keysAhead(int32_t position) const {
    const int32_t ahead = position + kKeys < end ? position + kKeys : position;
    return keys(blocks[ahead / cache.blockSize], ahead % cache.blockSize);
  }
  const Source* valuesAhead(int32_t position) const {
    const int32_t ahead = position + kKeys < end ? position + kKeys : position;
    return values(blocks[ahead / cache.blockSize], ahead % cache.blockSize);
  }
};

// Memory that will be needed soon; `n` elements.
template <class Source>
PAGODA_INLINE void prefetch(const Source* from, int32_t n) {
  constexpr int32_t kLine = 64 / sizeof(Source);
  for (int32_t i = 0; i < n; i += kLine) __builtin_prefetch(from + i, 0, 2);
}

// All of `range`.
template <class Source>
void prefetchTile(const HeadCache<Source>& from, int32_t tileStart, Range range) {
  const int32_t headDim = from.cache.headDim;
  forStretches(from.cache, from.blocks, tileStart, range, [&](int32_t, int32_t n, int32_t block, int32_t offset) {
    const Source* keys = from.keys(block, offset);
    for (int64_t d = 0; d < headDim; ++d) prefetch(keys + d * from.cache.blockSize, n);
    prefetch(from.values(block, offset), headDim * n);
  });
}

// Keys of `range`; other columns are left as they are.
template <class Products, class Source>
void gatherKeys(const HeadCache<Source>& from, int32_t tileStart, Range range, const KeyTile<Products>& to) {
  constexpr int32_t kStep = KeyTile<Products>::kStep;
  const int32_t headDim = from.cache.headDim;
  const int64_t stride = from.cache.blockSize;
  forStretches(from.cache, from.blocks, tileStart, range, [&](int32_t first, int32_t n, int32_t block, int32_t offset) {
    const Source* keys = from.keys(block, offset);
    const Source* ahead = from.keysAhead(tileStart + first);
    for (int32_t d = 0; d < headDim; d += kStep) {
      const Source* row = keys + d * stride;
      const bool paired = kStep == 2 && d + 1 < headDim;
      prefetch(ahead + d * stride, n);
      forVectors(n, [&](int32_t i, int count) {
        const f32v odd = paired ? loadSome(row + stride + i, count) : zero();
        Products::storeStep(to.keys + (static_cast<int64_t>(d) / kStep * kKeys + first + i) * kStep,
                            loadSome(row + i, count), odd, count);
      });
    }
  });
}

// Values of `range`; where it has one key of a pair, the other is zero.
template <class Products, class Source>
void gatherValues(const HeadCache<Source>& from, int32_t tileStart, Range range, const KeyTile<Products>& to) {
  constexpr int32_t kStep = KeyTile<Products>::kStep;
  const int32_t headDim = from.cache.headDim;
  const Source* rows[kKeys + 1] = {};
  const Source* ahead[kKeys] = {};
  forStretches(from.cache, from.blocks, tileStart, range, [&](int32_t first, int32_t n, int32_t block, int32_t offset) {
    const Source* values = from.values(block, offset);
    const Source* valuesAhead = from.valuesAhead(tileStart + first);
    for (int32_t i = 0; i < n; ++i) {
      rows[first + i] = values + static_cast<int64_t>(i) * headDim;
      ahead[first + i] = valuesAhead + static_cast<int64_t>(i) * headDim;
    }
  });
  for (int32_t i = range.begin - range.begin % kStep; i < range.end; i += kStep) {
    typename KeyTile<Products>::Element* row = to.values + static_cast<int64_t>(i) * to.valueWidth;
    if (ahead[i] != nullptr) prefetch(ahead[i], headDim * kStep);
    forVectors(headDim, [&](int32_t d, int count) {
      const f32v even = rows[i] != nullptr ? loadSome(rows[i] + d, count) : zero();
      const f32v odd = kStep == 2 && rows[i + 1] != nullptr ? loadSome(rows[i + 1] + d, count) : zero();
      Products::storeStep(row + d * kStep, even, odd, count);
    });
  }
}

// Scales of `range`; others are zero.
template <class Products>
void gatherScales(const HeadCache<int8_t>& from, int32_t tileStart, Range range, const KeyTile<Products>& to) {
  forVectors(kKeys, [&](int32_t i, int) {
    store(to.keyScales + i, zero());
    store(to.valueScales + i, zero());
  });
  forStretches(from.cache, from.blocks, tileStart, range, [&](int32_t first, int32_t n, int32_t block, int32_t offset) {
    const float* keyScales = kvScales(keyPart(from.cache, block, from.head)) + offset;
    const float* valueScales = kvScales(valuePart(from.cache, block, from.head)) + offset;
    forVectors(n, [&](int32_t i, int count) {
      storeSome(to.keyScales + first + i, loadSome(keyScales + i, count), count);
      storeSome(to.valueScales + first + i, loadSome(valueScales + i, count), count);
    });
  });
}
template <class Products, class Source>
void gatherScales(const HeadCache<Source>&, int32_t, Range, const KeyTile<Products>&) {}

// Whether all values of the range are finite: then a weight of zero leaves a sum as it is.
template <class Source>
bool allFinite(const HeadCache<Source>& from, int32_t tileStart, Range range) {
  const int32_t headDim = from.cache.headDim;
  f32v zeros = zero();
  forStretches(from.cache, from.blocks, tileStart, range, [&](int32_t, int32_t n, int32_t block, int32_t offset) {
    for (int64_t i = 0; i < n; ++i) {
      const Source* row = from.values(block, offset) + i * headDim;
      forVectors(headDim, [&](int32_t d, int count) { zeros = fma(loadSome(row + d, count), zero(), zeros); });
    }
  });
  return sum(zeros) == 0.0f;
}
inline bool allFinite(const HeadCache<int8_t>& from, int32_t tileStart, Range range) {
  f32v zeros = zero();
  forStretches(from.cache, from.blocks, tileStart, range, [&](int32_t, int32_t n, int32_t block, int32_t offset) {
    const float* scales = kvScales(valuePart(from.cache, block, from.head)) + offset;
    forVectors(n, [&](int32_t i, int count) { zeros = fma(loadSome(scales + i, count), zero(), zeros); });
  });
  return sum(zeros) == 0.0f;
}

}  // namespace
}  // namespace pagoda::PAGODA_ISA

#endif
