// out = x * weight^T + bias
//
// The weight lies in panels of kPanelWidth outputs (kernels.h), so one vector holds outputs and a row is the same chain
// of multiply-adds alone and in a batch. A work item is one panel and a block of rows; the depth is cut so that a part
// of the panel stays in the cache while the rows stream, and the next part is fetched meanwhile. Each weight is read
// from memory once for as many rows as a work item has.
//
// Quantised weights: linear-quantized.cc. f32 weights: f32 multiply-adds. f16 weights: the same after they are widened,
// so with the bits of f32 weights. bf16 weights: with AVX-512 the activations are rounded to bf16 (nearest even) and
// multiplied in pairs; the other instruction sets widen the weights and leave the activations alone.
#include "isa-kernels.h"
#include "linear-blocks.h"
#include "linear-quantized.h"
#include "packed-rows.h"
#include "tile.h"

namespace pagoda::PAGODA_ISA {
namespace {

// Bytes of one step of the depth of a panel.
template <class Tile>
constexpr int64_t kStepBytes = static_cast<int64_t>(sizeof(typename Tile::B)) * Tile::kDepthPerStep* kPanelWidth;

// Steps of a panel that lie in the cache at a time: few where memory bounds the time, so that the next ones are fetched
// evenly, else many, so that sums are seldom loaded and stored.
template <class Tile>
int32_t stepsPerPart(int32_t rows) {
  return static_cast<int32_t>((rows <= kStreamedRows ? 16 * 1024 : 128 * 1024) / kStepBytes<Tile>);
}

// The first row blocks of a part of the panel, `steps` long, fetch what lies behind it, an equal share each. A single
// row block fetches what it will come to itself.
template <class Tile>
Ahead nextPart(const void* part, int64_t steps, int32_t rowBlock, int32_t rows) {
  constexpr int32_t kLines = kStepBytes<Tile> / 64;
  const int32_t shares = rows > (kLines - 1) * kTileRows ? kLines : minimum(2, kLines);
  if (rows <= kTileRows) return {static_cast<const char*>(part) + kStreamAhead, kLines};
  if (rowBlock >= shares) return {};
  const int32_t lines = kLines / shares;
  return {static_cast<const char*>(part) + steps * 64 * (kLines + rowBlock * lines), lines};
}

// Rows of activations: [rows, depth].
template <class Tile>
struct Operand {
  const typename Tile::A* data;
  int64_t stride;
};

// Rows [0, item.rows) of x times the panel.
template <class Tile>
void multiplyPanel(const Operand<Tile>& x, int32_t depth, const Item& item, const typename Tile::B* panel,
                   const Sums& sums) {
  constexpr int64_t ldb = static_cast<int64_t>(kPanelWidth) * Tile::kDepthPerStep;
  const int32_t column = item.vectors.first * kLanes;
  const int32_t partDepth = stepsPerPart<Tile>(item.rows) * Tile::kDepthPerStep;
  for (int32_t k = 0; k < depth; k += partDepth) {
    const typename Tile::B* part = panel + k / Tile::kDepthPerStep * ldb;
    const int32_t n = minimum(partDepth, depth - k);
    int32_t rowBlock = 0;
    forRowBlocks(item.rows, [&](int32_t r, int32_t count) {
      const Ahead ahead = nextPart<Tile>(part, ceilDiv(n, Tile::kDepthPerStep), rowBlock++, item.rows);
      multiply<Tile>(count, item.vectors.end - item.vectors.first, n, x.data + r * x.stride + k, x.stride,
                     part + column * Tile::kDepthPerStep, ldb, sums.target(r, column, k == 0, k + n == depth), ahead);
    });
  }
}

template <class Tile>
const typename Tile::B* panelOf(const PagodaWeight& weight, int32_t panel) {
  const int64_t panelElements = roundUp(weight.cols, Tile::kDepthPerStep) * kPanelWidth;
  return static_cast<const typename Tile::B*>(weight.data) + panel * panelElements;
}

template <class Tile>
void multiplyAll(const KernelContext& context, const PagodaLinear& op, const Operand<Tile>& x) {
  const Blocks blocks = cut(op, context.pool->threads(), kTileRows);
  forItems(context, op, blocks, static_cast<float*>(context.scratch), [&](const Item& item, const Sums& sums) {
    const Operand<Tile> rows = {x.data + item.firstRow * x.stride, x.stride};
    multiplyPanel<Tile>(rows, op.weight.cols, item, panelOf<Tile>(op.weight, item.panel), sums);
  });
}

// multiplyPackedPanel for one kind of tile.
template <class Tile>
void multiplyRowsOf(const PackedRows& x, const Item& item, const PagodaWeight& weight, const Sums& sums) {
  using A = typename Tile::A;
  const int64_t stride = roundUp(x.width, sizeof(A) == sizeof(float) ? 1 : 2);
  const Operand<Tile> rows = {static_cast<const A*>(x.data) + item.firstRow * stride, stride};
  multiplyPanel<Tile>(rows, x.width, item, panelOf<Tile>(weight, item.panel), sums);
}

#if defined(__AVX512BF16__)

// Rounds a row to bf16; a zero makes its width even.
void roundRow(const float* x, int32_t width, uint16_t* to) {
  forVectors(width, [&](int32_t i, int n) { roundToBf16(to + i, x + i, n); });
  if (width % 2 != 0) to[width] = 0;
}

// Rounds the activations to bf16: [rows, K], K made even by a zero.
const uint16_t* roundActivations(const KernelContext& context, const PagodaLinear& op) {
  const Blocks blocks = cut(op, context.pool->threads(), kTileRows);
  float* sums = static_cast<float*>(context.scratch);
  uint16_t* rounded = reinterpret_cast<uint16_t*>(sums + context.pool->threads() * sumsPerWorker(blocks));
  const int64_t stride = roundUp(op.x.width, 2);
  parallelRows(context.pool, op.x.rows, op.x.width,
               [&](int32_t row) { roundRow(rowOf(op.x, row), op.x.width, rounded + row * stride); });
  return rounded;
}

#endif

}  // namespace

uint64_t linearScratch(const PagodaLinear& op, int32_t threads) {
  if (op.x.rows == 0) return 0;
  if (isQuantized(op.weight.dtype)) return linearQuantizedScratch(op, threads);
  const uint64_t sums = sizeof(float) * threads * sumsPerWorker(cut(op, threads, kTileRows));
  const uint64_t rounded = sizeof(uint16_t) * op.x.rows * roundUp(op.x.width, 2);
  return sums + (kBf16Dot && op.weight.dtype == PAGODA_BF16 ? rounded : 0);
}

void linear(const KernelContext& context, const PagodaLinear& op) {
  if (op.x.rows == 0) return;
  if (isQuantized(op.weight.dtype)) return linearQuantized(context, op);
  const float* x = static_cast<const float*>(op.x.data);
  if (op.weight.dtype == PAGODA_F32) return multiplyAll<FloatTile>(context, op, {x, op.x.rowStride});
  if (op.weight.dtype == PAGODA_F16) return multiplyAll<HalfTile>(context, op, {x, op.x.rowStride});
#if defined(__AVX512BF16__)
  multiplyAll<Bf16Tile>(context, op, {roundActivations(context, op), roundUp(op.x.width, 2)});
#else
  multiplyAll<Bf16Tile>(context, op, {x, op.x.rowStride});
#endif
}

uint64_t packedRowsBytes(PagodaDtype dtype, int64_t rows, int32_t width) {
  if (isQuantized(dtype)) return packedQuantizedBytes(rows, width);
  return packsAsFloats(dtype) ? sizeof(float) * rows * width : sizeof(uint16_t) * rows * roundUp(width, 2);
}

void packRow(const PackedRows& to, int32_t row, const float* x) {
  if (isQuantized(to.dtype)) return packQuantizedRow(to, row, x);
#if defined(__AVX512BF16__)
  if (to.dtype == PAGODA_BF16)
    return roundRow(x, to.width, static_cast<uint16_t*>(to.data) + row * roundUp(to.width, 2));
#endif
  float* out = static_cast<float*>(to.data) + static_cast<int64_t>(row) * to.width;
  forVectors(to.width, [&](int32_t i, int n) { storeSome(out + i, loadSome(x + i, n), n); });
}

void multiplyPackedPanel(const PackedRows& x, int32_t first, int32_t count, const PagodaWeight& weight, int32_t panel,
                         float* out) {
  if (isQuantized(x.dtype)) return multiplyQuantizedPanel(x, first, count, weight, panel, out);
  const Item item = {first, count, panel, kWholePanel};
  const Sums sums = {out, out, kPanelWidth};
  if (x.dtype == PAGODA_F16) return multiplyRowsOf<HalfTile>(x, item, weight, sums);
  if (x.dtype == PAGODA_F32) return multiplyRowsOf<FloatTile>(x, item, weight, sums);
  multiplyRowsOf<Bf16Tile>(x, item, weight, sums);
}

}  // namespace pagoda::PAGODA_ISA
