// Keys and values of some heads at the positions of one split, made of the latents of a request (expanded form), as the
// right operands of the products of attention. A key is [rope key | W_UK latent]: of the two the rope key has whole
// pairs of columns. Included by files compiled per instruction set.
#ifndef PAGODA_CPU_EXPANDED_TILE_H
#define PAGODA_CPU_EXPANDED_TILE_H

#include "attention-schedule.h"
#include "bf16.h"
#include "key-tile.h"

namespace pagoda::PAGODA_ISA {
namespace {

constexpr int32_t kExpandedTiles = kSplitKeys / kKeys;

template <class Products>
struct ExpandedSplit {
  using Element = typename Products::Tile::B;
  static constexpr int32_t kStep = Products::Tile::kDepthPerStep;

  int32_t split;
  int32_t keyDim;
  int32_t valueDim;
  int32_t valueWidth;  // valueDim in whole vectors
  Element* keys;       // [heads, kExpandedTiles] operands, as in KeyTile
  Element* values;

  static int64_t keyElements(int32_t keyDim) { return roundUp(keyDim, kStep) * kKeys; }  // of one tile
  static int64_t valueElements(int32_t valueWidth) { return static_cast<int64_t>(valueWidth) * kKeys; }

  Element* keysAt(int64_t head, int32_t tile) const {
    return keys + (head * kExpandedTiles + tile) * keyElements(keyDim);
  }
  Element* valuesAt(int64_t head, int32_t tile) const {
    return values + (head * kExpandedTiles + tile) * valueElements(valueWidth);
  }
};

// One head of it.
template <class Products>
struct ExpandedCache {
  const ExpandedSplit<Products>& split;
  int32_t head;

  int32_t tileOf(int32_t tileStart) const { return tileStart / kKeys - split.split * kExpandedTiles; }
  const auto* valuesAt(int32_t tileStart) const { return split.valuesAt(head, tileOf(tileStart)); }
};

// ---- what is stored --------------------------------------------------------------------------------

// Rows of floats, `stride` apart: columns [column, column + width) of `count` keys or values.
struct Columns {
  const float* rows;
  int64_t stride;
  int32_t count;
  int32_t column;
  int32_t width;
};

// to[word][key] = from[key][word]
inline void transposeWords(const uint32_t* from, int64_t stride, int32_t keys, int32_t words, uint32_t* to) {
  for (int32_t w = 0; w < words; ++w) {
    for (int32_t i = 0; i < keys; ++i) to[w * kKeys + i] = from[i * stride + w];
  }
}

// `rounded` has room for kKeys rows of `width` elements in whole pairs.
template <class Products>
void storeKeys(const Columns& from, int32_t keyDim, typename Products::Tile::A* rounded,
               typename Products::Tile::B* to) {
  using A = typename Products::Tile::A;
  constexpr int32_t kStep = Products::Tile::kDepthPerStep;
  constexpr bool kIsPaired = sizeof(A) < sizeof(uint32_t);
  const int64_t width = roundUp(from.width, 2);
  for (int32_t i = 0; i < from.count; ++i)
    Products::storeLeft(rounded + i * width, from.rows + i * from.stride, from.width);
  const bool endsPair = from.width % 2 == 0 || from.column + from.width == keyDim;
  if (!kIsPaired || (from.column % 2 == 0 && endsPair)) {
    constexpr int32_t kPerWord = sizeof(uint32_t) / sizeof(A);
    auto* words = reinterpret_cast<uint32_t*>(to) + static_cast<int64_t>(from.column) / kPerWord * kKeys;
    return transposeWords(reinterpret_cast<const uint32_t*>(rounded), width / kPerWord, from.count,
                          static_cast<int32_t>(ceilDiv(from.width, kPerWord)), words);
  }
  for (int32_t j = 0; j < from.width; ++j) {
    const int64_t column = from.column + j;
    for (int32_t i = 0; i < from.count; ++i) {
      auto* pair = to + (column / kStep * kKeys + i) * kStep;
      pair[column % kStep] = rounded[i * width + j];
      if (column + 1 == keyDim && keyDim % kStep != 0) pair[1] = 0;
    }
  }
}

// Where there is an odd number of them, the last one's pair is zero.
template <class Products>
void storeValues(const Columns& from, int32_t valueWidth, typename Products::Tile::B* to) {
  constexpr int32_t kStep = Products::Tile::kDepthPerStep;
  for (int32_t i = 0; i < from.count; i += kStep) {
    auto* step = to + static_cast<int64_t>(i) * valueWidth + static_cast<int64_t>(from.column) * kStep;
    const float* row = from.rows + i * from.stride;
    const bool hasPair = kStep == 2 && i + 1 < from.count;
    forVectors(from.width, [&](int32_t d, int n) {
      const f32v odd = hasPair ? Products::rounded(loadSome(row + from.stride + d, n)) : zero();
      Products::storeStep(step + d * kStep, Products::rounded(loadSome(row + d, n)), odd, n);
    });
  }
}

// ---- what attention reads --------------------------------------------------------------------------

template <class Products>
bool allFinite(const ExpandedCache<Products>& from, int32_t tileStart, Range range) {
  constexpr int32_t kStep = ExpandedSplit<Products>::kStep;
  const auto* values = from.valuesAt(tileStart);
  f32v zeros = zero();
  for (int32_t i = range.begin - range.begin % kStep; i < range.end; i += kStep) {
    const auto* step = values + static_cast<int64_t>(i) * from.split.valueWidth;
    forVectors(from.split.valueDim * kStep,
               [&](int32_t d, int n) { zeros = fma(loadSome(step + d, n), zero(), zeros); });
  }
  return sum(zeros) == 0.0f;
}

template <class Products>
KeyTile<Products> gatherTile(const ExpandedCache<Products>& cache, int32_t tileStart, Range range,
                             const KeyTile<Products>& memory) {
  constexpr int32_t kStep = ExpandedSplit<Products>::kStep;
  KeyTile<Products> tile = memory;
  const int64_t valueWidth = cache.split.valueWidth;
  auto* values = cache.split.valuesAt(cache.head, cache.tileOf(tileStart));
  tile.keys = cache.split.keysAt(cache.head, cache.tileOf(tileStart));
  tile.values = values;
  if (range.end % kStep == 0 || allFinite(cache, tileStart, range)) return tile;
  // A weight of zero must not meet an infinity or NaN in the last pair.
  __builtin_memcpy(memory.values, values, sizeof(*values) * (range.end + 1) * valueWidth);
  for (int64_t d = 0; d < valueWidth; ++d) memory.values[(range.end - 1) * valueWidth + d * kStep + 1] = 0;
  tile.values = memory.values;
  return tile;
}

}  // namespace
}  // namespace pagoda::PAGODA_ISA

#endif
