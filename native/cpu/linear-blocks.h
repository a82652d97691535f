// How a linear is cut into work items, and what it does with its sums; for all types of weights.
#ifndef PAGODA_CPU_LINEAR_BLOCKS_H
#define PAGODA_CPU_LINEAR_BLOCKS_H

#include "isa-kernels.h"
#include "tile.h"

namespace pagoda::PAGODA_ISA {
namespace {

// How the rows are cut, each block a multiple of the register block; and which panels are cut in two, so that a few
// panels are shared evenly by the workers. Where memory bounds the time, none are: halves are not fetched ahead.
struct Blocks {
  int32_t panels;
  int32_t wholePanels;  // the first ones
  int32_t rowBlocks;
  int32_t rowsPerBlock;

  int32_t items() const { return wholePanels * rowBlocks + 2 * (panels - wholePanels); }
};

// Some vectors of a panel.
struct Vectors {
  int32_t first;
  int32_t end;
};

constexpr Vectors kWholePanel = {0, kPanelVectors};

struct Item {
  int32_t firstRow;
  int32_t rows;
  int32_t panel;
  Vectors vectors;
};

// Where the sums of an item lie, [rows, kPanelWidth]: while its depth is gone through, and at its end.
struct Sums {
  float* partial;
  float* result;
  int64_t resultStride;

  // From a row and column on, for the first part of the depth, the last one, or one between.
  PAGODA_INLINE Target target(int32_t row, int32_t column, bool isFirst, bool isLast) const {
    float* before = partial + static_cast<int64_t>(row) * kPanelWidth + column;
    if (!isLast) return {isFirst ? nullptr : before, kPanelWidth, before, kPanelWidth};
    return {isFirst ? nullptr : before, kPanelWidth, result + row * resultStride + column, resultStride};
  }
};

// Below so many items a worker, one more or less is felt.
constexpr int32_t kFewItems = 16;
// So many rows at most are bound by memory.
constexpr int32_t kStreamedRows = 16;

// `tileRows` is the register block.
Blocks cut(const PagodaLinear& op, int32_t threads, int32_t tileRows) {
  const int32_t maxBlockRows = 240 / tileRows * tileRows;
  const int32_t panels = static_cast<int32_t>(ceilDiv(op.weight.rows, kPanelWidth));
  const int64_t wanted = ceilDiv(4 * threads, panels);
  const int64_t possible = ceilDiv(op.x.rows, 4 * tileRows);
  const int64_t needed = ceilDiv(op.x.rows, maxBlockRows);
  int64_t blocks = wanted < possible ? wanted : possible;
  if (blocks < needed) blocks = needed;
  for (int64_t more = blocks; more < blocks + threads && more <= possible && blocks > 1; ++more) {
    if (panels * more % threads != 0) continue;
    if (panels * blocks < kFewItems * threads) blocks = more;
    break;
  }
  const int64_t rows = roundUp(ceilDiv(op.x.rows, blocks), tileRows);
  const auto rowBlocks = static_cast<int32_t>(ceilDiv(op.x.rows, rows));
  const bool isEven = rowBlocks > 1 || op.x.rows <= kStreamedRows || panels >= kFewItems * threads;
  return {panels, isEven ? panels : panels - panels % threads, rowBlocks, static_cast<int32_t>(rows)};
}

int64_t sumsPerWorker(const Blocks& blocks) { return static_cast<int64_t>(blocks.rowsPerBlock) * kPanelWidth; }

Item itemAt(const Blocks& blocks, int32_t index, int32_t rows) {
  const int32_t whole = blocks.wholePanels * blocks.rowBlocks;
  if (index >= whole) {
    const int32_t half = index - whole;
    const int32_t first = half % 2 * (kPanelVectors / 2);
    return {0, rows, blocks.wholePanels + half / 2, {first, first + kPanelVectors / 2}};
  }
  const int32_t first = index % blocks.rowBlocks * blocks.rowsPerBlock;
  return {first, minimum(blocks.rowsPerBlock, rows - first), index / blocks.rowBlocks, kWholePanel};
}

// out[rows, width] = sums + bias
void finish(const PagodaLinear& op, const Item& item, const float* sums) {
  const float* bias = static_cast<const float*>(op.bias.data);
  const int32_t begin = item.panel * kPanelWidth + item.vectors.first * kLanes;
  const int32_t width = minimum((item.vectors.end - item.vectors.first) * kLanes, op.out.width - begin);
  for (int32_t r = 0; r < item.rows; ++r) {
    float* out = rowOf(op.out, item.firstRow + r) + begin;
    forVectors(width, [&](int32_t i, int n) {
      const f32v v = load(sums + static_cast<int64_t>(r) * kPanelWidth + item.vectors.first * kLanes + i);
      storeSome(out + i, bias == nullptr ? v : add(v, loadSome(bias + begin + i, n)), n);
    });
  }
}

// Calls multiply(item, sums) for every item. `memory` has room for sumsPerWorker floats a worker.
template <class Multiply>
void forItems(const KernelContext& context, const PagodaLinear& op, const Blocks& blocks, float* memory,
              Multiply multiply) {
  auto items = [&](int32_t begin, int32_t end, int32_t worker) {
    float* partial = memory + worker * sumsPerWorker(blocks);
    for (int32_t index = begin; index < end; ++index) {
      const Item item = itemAt(blocks, index, op.x.rows);
      const bool isWhole = (item.panel + 1) * kPanelWidth <= op.out.width;
      if (isWhole && op.bias.data == nullptr) {
        float* out = rowOf(op.out, item.firstRow) + item.panel * kPanelWidth;
        multiply(item, Sums{partial, out, op.out.rowStride});
      } else {
        multiply(item, Sums{partial, partial, kPanelWidth});
        finish(op, item, partial);
      }
    }
  };
  // Neighbouring panels to the same worker, so that what it fetches ahead is its own.
  const int32_t threads = context.pool->threads();
  const int32_t chunk = blocks.items() < kFewItems * threads ? 1 : maximum(1, blocks.panels / (8 * threads));
  parallel(context.pool, blocks.items(), blocks.rowBlocks > 1 ? 1 : chunk, items);
}

}  // namespace
}  // namespace pagoda::PAGODA_ISA

#endif
