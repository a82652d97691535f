// 64 rows of a latent cache at absolute positions, gathered through a block table as right operands of the products of
// attention: the online gather. A row is K as a whole and V in its first latentDim columns; both operands are made of
// the one row, which is dequantised on the way. Included by files compiled per instruction set.
#ifndef PAGODA_CPU_LATENT_TILE_H
#define PAGODA_CPU_LATENT_TILE_H

#include "bf16.h"
#include "key-tile.h"

namespace pagoda::PAGODA_ISA {
namespace {

// The rows of one request in a latent cache of Source elements.
template <class Source>
struct LatentCache {
  const PagodaKvCache& cache;
  const int32_t* blocks;  // block table of the request
  int32_t head;           // 0: all query heads share the rows
  int32_t end;            // positions from here on are not asked for ahead

  // [headDim]; the next offset is headDim elements on.
  const Source* row(int32_t block, int32_t offset) const { return latentRow<Source>(cache, block, offset); }
  const float* scales(int32_t block, int32_t offset) const { return latentScales(cache, block, offset); }

  // That of the position one tile behind `position`, which will be read next; of `position` itself at the end.
  const Source* rowAhead(int32_t position) const {
    const int32_t ahead = position + kKeys < end ? position + kKeys : position;
    return row(blocks[ahead / cache.blockSize], ahead % cache.blockSize);
  }
};

// Elements as operands; only those of int8 have a scale.
inline void convert(float x, float, float* to) { *to = x; }
inline void convert(uint16_t x, float, float* to) { *to = bf16ToFloat(x); }
inline void convert(uint16_t x, float, uint16_t* to) { *to = x; }
inline void convert(int8_t x, float scale, float* to) { *to = static_cast<float>(x) * scale; }
inline void convert(int8_t x, float scale, uint16_t* to) { *to = floatToBf16(static_cast<float>(x) * scale); }

template <class Products, class Source>
PAGODA_INLINE f32v loadOperand(const Source* from, int n, const float*) {
  return loadSome(from, n);
}
template <class Products>
PAGODA_INLINE f32v loadOperand(const int8_t* from, int n, const float* scale) {
  return Products::rounded(mul(loadSome(from, n), broadcast(*scale)));
}

// Rows of a tile, NULL where they are not in its range.
template <class Source>
struct TileRows {
  const Source* rows[kKeys + 1];
  const float* scales[kKeys + 1];  // [2] each: of the latent, of the rope key
};

template <class Source>
TileRows<Source> findRows(const LatentCache<Source>& from, int32_t tileStart, Range range) {
  TileRows<Source> found = {};
  forStretches(from.cache, from.blocks, tileStart, range, [&](int32_t first, int32_t n, int32_t block, int32_t offset) {
    for (int32_t i = 0; i < n; ++i) {
      found.rows[first + i] = from.row(block, offset + i);
      found.scales[first + i] = from.scales(block, offset + i);
    }
  });
  return found;
}

// All of `range`.
template <class Source>
void prefetchTile(const LatentCache<Source>& from, int32_t tileStart, Range range) {
  forStretches(from.cache, from.blocks, tileStart, range, [&](int32_t, int32_t n, int32_t block, int32_t offset) {
    prefetch(from.row(block, offset), from.cache.headDim * n);
  });
}

// Columns [begin, end) of keys [first, first + keys), transposed. `part`: of which scale they are.
template <class Products, class Source>
void transposeKeys(const TileRows<Source>& from, int32_t part, Range columns, Range keys, const KeyTile<Products>& to) {
  constexpr int32_t kStep = KeyTile<Products>::kStep;
  constexpr bool kHasScale = sizeof(Source) == 1;
  for (int32_t d = columns.begin; d < columns.end; d += kStep) {
    auto* step = to.keys + static_cast<int64_t>(d) / kStep * kKeys * kStep;
    for (int32_t i = keys.begin; i < keys.end; ++i) {
      const float scale = kHasScale ? from.scales[i][part] : 1.0f;
      for (int32_t s = 0; s < kStep; ++s) convert(from.rows[i][d + s], scale, step + i * kStep + s);
    }
  }
}

// Keys of `range`; other columns are left as they are. Both parts of a row have whole pairs of columns.
template <class Products, class Source>
void gatherKeys(const LatentCache<Source>& from, int32_t tileStart, Range range, const KeyTile<Products>& to) {
  constexpr int32_t kAtOnce = 16;  // keys, so that a cache line of the operand is written at once
  const TileRows<Source> rows = findRows(from, tileStart, range);
  const Range latent = {0, from.cache.latentDim};
  const Range ropeKey = {from.cache.latentDim, from.cache.headDim};
  for (int32_t i = range.begin; i < range.end; i += kAtOnce) {
    const Range keys = {i, minimum(i + kAtOnce, range.end)};
    for (int32_t key = keys.begin; key < keys.end; ++key) {
      prefetch(from.rowAhead(tileStart + key), from.cache.headDim);
    }
    transposeKeys(rows, 0, latent, keys, to);
    transposeKeys(rows, 1, ropeKey, keys, to);
  }
}

// Values of `range`; where it has one key of a pair, the other is zero.
template <class Products, class Source>
void gatherValues(const LatentCache<Source>& from, int32_t tileStart, Range range, const KeyTile<Products>& to) {
  constexpr int32_t kStep = KeyTile<Products>::kStep;
  const TileRows<Source> tile = findRows(from, tileStart, range);
  for (int32_t i = range.begin - range.begin % kStep; i < range.end; i += kStep) {
    typename KeyTile<Products>::Element* row = to.values + static_cast<int64_t>(i) * to.valueWidth;
    const auto valuesOf = [&](int32_t key, int32_t d, int count) {
      return tile.rows[key] != nullptr ? loadOperand<Products>(tile.rows[key] + d, count, tile.scales[key]) : zero();
    };
    forVectors(from.cache.latentDim, [&](int32_t d, int count) {
      const f32v odd = kStep == 2 ? valuesOf(i + 1, d, count) : zero();
      Products::storeStep(row + d * kStep, valuesOf(i, d, count), odd, count);
    });
  }
}

// Operands are dequantised already.
template <class Products, class Source>
void gatherScales(const LatentCache<Source>&, int32_t, Range, const KeyTile<Products>&) {}

// Whether all values of the range are finite: then a weight of zero leaves a sum as it is.
template <class Source>
bool allFinite(const LatentCache<Source>& from, int32_t tileStart, Range range) {
  const TileRows<Source> tile = findRows(from, tileStart, range);
  f32v zeros = zero();
  for (int32_t i = range.begin; i < range.end; ++i) {
    forVectors(from.cache.latentDim, [&](int32_t d, int count) {
      zeros = fma(loadOperand<FloatProducts>(tile.rows[i] + d, count, tile.scales[i]), zero(), zeros);
    });
  }
  return sum(zeros) == 0.0f;
}

}  // namespace
}  // namespace pagoda::PAGODA_ISA

#endif
