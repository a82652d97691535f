// The one matrix micro-kernel: C[rows, columns] (+)= A[rows, depth] B[depth, columns] with C in registers.
//
// A is read by broadcast, B by vectors. Each element of C is summed over the depth strictly in order, whatever the
// block of rows and columns around it: so the bits of a row do not depend on the rows beside it. Included by files
// compiled per instruction set.
#ifndef PAGODA_CPU_TILE_H
#define PAGODA_CPU_TILE_H

#include "isa-kernels.h"

namespace pagoda::PAGODA_ISA {
namespace {

constexpr int kTileRows = kAccumulators >= 12 ? 6 : 4;

// The bits of an f16 number.
struct Half {
  uint16_t bits;
};

// Memory that will be needed next, asked for while a product is computed: `lines` cache lines a step of the depth.
struct Ahead {
  const char* address = nullptr;
  int32_t lines = 0;

  PAGODA_INLINE void fetch() {
    for (int32_t i = 0; i < lines; ++i, address += 64) __builtin_prefetch(address, 0, 2);
  }
};

// How many bytes ahead of itself a product that streams through its weights asks for them: with what the hardware fetches
// alone, memory is read a tenth slower.
constexpr int32_t kStreamAhead = 4096;

PAGODA_INLINE f32v loadAsFloats(const float* p) { return load(p); }
PAGODA_INLINE f32v loadAsFloats(const Half* p) { return loadHalves(p); }

// A is f32, B f32 or f16, which is widened exactly. A row of B is one step of the depth.
template <class Element>
struct FloatTileOf {
  using A = float;
  using B = Element;
  static constexpr int kDepthPerStep = 1;

  template <int kRows, int kVectors>
  PAGODA_INLINE static void accumulate(f32v (&c)[kRows][kVectors], int32_t depth, const A* a, int64_t lda, const B* b,
                                       int64_t ldb, Ahead ahead) {
    for (int32_t k = 0; k < depth; ++k, b += ldb) {
      ahead.fetch();
      f32v row[kVectors];
      for (int v = 0; v < kVectors; ++v) row[v] = loadAsFloats(b + v * kLanes);
      for (int r = 0; r < kRows; ++r) {
        const f32v value = broadcast(a[r * lda + k]);
        for (int v = 0; v < kVectors; ++v) c[r][v] = fma(value, row[v], c[r][v]);
      }
    }
  }
};

using FloatTile = FloatTileOf<float>;
using HalfTile = FloatTileOf<Half>;

#if defined(__AVX512BF16__)

// B holds bf16 pairs, A rows of bf16 of even length: activations are rounded first. Products are exact, sums f32.
struct Bf16Tile {
  using A = uint16_t;
  using B = uint16_t;
  static constexpr int kDepthPerStep = 2;

  template <int kRows, int kVectors>
  PAGODA_INLINE static void accumulate(f32v (&c)[kRows][kVectors], int32_t depth, const A* a, int64_t lda, const B* b,
                                       int64_t ldb, Ahead ahead) {
    for (int32_t k = 0; k < depth; k += 2, b += ldb) {
      ahead.fetch();
      f32v row[kVectors];
      for (int v = 0; v < kVectors; ++v) row[v] = load(reinterpret_cast<const float*>(b) + v * kLanes);
      for (int r = 0; r < kRows; ++r) {
        uint32_t pair;
        __builtin_memcpy(&pair, a + r * lda + k, sizeof pair);
        for (int v = 0; v < kVectors; ++v) c[r][v] = dotBf16(c[r][v], pair, row[v]);
      }
    }
  }
};

#else

// B holds bf16 pairs, widened exactly; A is f32.
struct Bf16Tile {
  using A = float;
  using B = uint16_t;
  static constexpr int kDepthPerStep = 2;

  template <int kRows, int kVectors>
  PAGODA_INLINE static void accumulate(f32v (&c)[kRows][kVectors], int32_t depth, const A* a, int64_t lda, const B* b,
                                       int64_t ldb, Ahead ahead) {
    for (int32_t k = 0; k < depth; k += 2, b += ldb) {
      ahead.fetch();
      f32v row[kVectors];
      for (int v = 0; v < kVectors; ++v) row[v] = loadEvenBf16(b + 2 * v * kLanes);
      for (int r = 0; r < kRows; ++r) {
        const f32v value = broadcast(a[r * lda + k]);
        for (int v = 0; v < kVectors; ++v) c[r][v] = fma(value, row[v], c[r][v]);
      }
      if (k + 1 == depth) break;
      for (int v = 0; v < kVectors; ++v) row[v] = loadOddBf16(b + 2 * v * kLanes);
      for (int r = 0; r < kRows; ++r) {
        const f32v value = broadcast(a[r * lda + k + 1]);
        for (int v = 0; v < kVectors; ++v) c[r][v] = fma(value, row[v], c[r][v]);
      }
    }
  }
};

#endif

// A block of C and what it is added to: `before` is of the shape of C or NULL, and may be C itself. Strides are in
// elements.
struct Target {
  const float* before;
  int64_t beforeStride;
  float* c;
  int64_t stride;

  PAGODA_INLINE Target at(int64_t column) const {
    return {before == nullptr ? nullptr : before + column, beforeStride, c + column, stride};
  }
};

// One register block. Strides are in elements; ldb is that of one step.
template <class Tile, int kRows, int kVectors>
void multiplyBlock(int32_t depth, const typename Tile::A* a, int64_t lda, const typename Tile::B* b, int64_t ldb,
                   const Target& to, Ahead ahead) {
  f32v sums[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      sums[r][v] = to.before == nullptr ? zero() : load(to.before + r * to.beforeStride + v * kLanes);
    }
  }
  Tile::accumulate(sums, depth, a, lda, b, ldb, ahead);
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) store(to.c + r * to.stride + v * kLanes, sums[r][v]);
  }
}

// `vectors` vectors of columns: as many at a time as there are registers, then two, then one.
template <class Tile, int kRows>
void multiplyRows(int32_t vectors, int32_t depth, const typename Tile::A* a, int64_t lda, const typename Tile::B* b,
                  int64_t ldb, const Target& to, Ahead ahead) {
  constexpr int kVectors = kRows * 4 <= kAccumulators ? 4 : 2;
  constexpr int kElements = Tile::kDepthPerStep * kLanes;  // of B in one vector of columns
  int32_t v = 0;
  for (; v + kVectors <= vectors; v += kVectors) {
    multiplyBlock<Tile, kRows, kVectors>(depth, a, lda, b + v * kElements, ldb, to.at(v * kLanes), ahead);
  }
  for (; v + 2 <= vectors; v += 2) {
    multiplyBlock<Tile, kRows, 2>(depth, a, lda, b + v * kElements, ldb, to.at(v * kLanes), ahead);
  }
  if (v < vectors) {
    multiplyBlock<Tile, kRows, 1>(depth, a, lda, b + v * kElements, ldb, to.at(v * kLanes), ahead);
  }
}

// C[rows, vectors * kLanes] = before + A B, rows <= kTileRows.
template <class Tile>
void multiply(int32_t rows, int32_t vectors, int32_t depth, const typename Tile::A* a, int64_t lda,
              const typename Tile::B* b, int64_t ldb, const Target& to, Ahead ahead = {}) {
  switch (rows) {
    case 1:
      return multiplyRows<Tile, 1>(vectors, depth, a, lda, b, ldb, to, ahead);
    case 2:
      return multiplyRows<Tile, 2>(vectors, depth, a, lda, b, ldb, to, ahead);
    case 3:
      return multiplyRows<Tile, 3>(vectors, depth, a, lda, b, ldb, to, ahead);
    case 4:
      return multiplyRows<Tile, 4>(vectors, depth, a, lda, b, ldb, to, ahead);
    case 5:
      return multiplyRows<Tile, 5>(vectors, depth, a, lda, b, ldb, to, ahead);
    case 6:
      return multiplyRows<Tile, 6>(vectors, depth, a, lda, b, ldb, to, ahead);
  }
}

// Calls body(firstRow, rows) over even blocks of at most kTileRows rows.
template <class Body>
PAGODA_INLINE void forRowBlocks(int32_t rows, Body body) {
  forRowBlocks(rows, kTileRows, body);
}

}  // namespace
}  // namespace pagoda::PAGODA_ISA

#endif
