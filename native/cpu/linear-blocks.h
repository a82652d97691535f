// How a linear is cut into work items, and what it does with its sums; for all types of weights.
#ifndef PAGODA_CPU_LINEAR_BLOCKS_H
#define PAGODA_CPU_LINEAR_BLOCKS_H

#include "isa-kernels.h"

namespace pagoda::PAGODA_ISA {
namespace {

// How the rows are cut: enough items for all workers, each a multiple of the register block.
struct Blocks {
  int32_t panels;
  int32_t rowBlocks;
  int32_t rowsPerBlock;
};

// `tileRows` is the register block.
Blocks cut(const PagodaLinear& op, int32_t threads, int32_t tileRows) {
  const int32_t maxBlockRows = 240 / tileRows * tileRows;
  const int32_t panels = static_cast<int32_t>(ceilDiv(op.weight.rows, kPanelWidth));
  const int64_t wanted = ceilDiv(4 * threads, panels);
  const int64_t possible = ceilDiv(op.x.rows, 4 * tileRows);
  const int64_t needed = ceilDiv(op.x.rows, maxBlockRows);
  const int64_t blocks = wanted < possible ? wanted : possible;
  const int64_t rows = roundUp(ceilDiv(op.x.rows, blocks > needed ? blocks : needed), tileRows);
  return {panels, static_cast<int32_t>(ceilDiv(op.x.rows, rows)), static_cast<int32_t>(rows)};
}

int64_t sumsPerWorker(const Blocks& blocks) { return static_cast<int64_t>(blocks.rowsPerBlock) * kPanelWidth; }

// out[rows, width] = sums + bias
void finish(const PagodaLinear& op, int32_t firstRow, int32_t rows, int32_t firstOutput, const float* sums) {
  const float* bias = static_cast<const float*>(op.bias.data);
  const int32_t width = minimum(kPanelWidth, op.out.width - firstOutput);
  for (int32_t r = 0; r < rows; ++r) {
    float* out = rowOf(op.out, firstRow + r) + firstOutput;
    forVectors(width, [&](int32_t i, int n) {
      const f32v v = load(sums + static_cast<int64_t>(r) * kPanelWidth + i);
      storeSome(out + i, bias == nullptr ? v : add(v, loadSome(bias + firstOutput + i, n)), n);
    });
  }
}

// Calls panel(firstRow, rows, panel, sums) for every item, to fill sums[rows, kPanelWidth], and finishes them. `sums`
// has room for sumsPerWorker floats a worker.
template <class Panel>
void forPanels(const KernelContext& context, const PagodaLinear& op, const Blocks& blocks, float* sums, Panel panel) {
  auto items = [&](int32_t begin, int32_t end, int32_t worker) {
    float* own = sums + worker * sumsPerWorker(blocks);
    for (int32_t item = begin; item < end; ++item) {
      const int32_t index = item / blocks.rowBlocks;
      const int32_t first = item % blocks.rowBlocks * blocks.rowsPerBlock;
      const int32_t rows = minimum(blocks.rowsPerBlock, op.x.rows - first);
      panel(first, rows, index, own);
      finish(op, first, rows, index * kPanelWidth, own);
    }
  };
  // Neighbouring panels to the same worker, so that what it fetches ahead is its own.
  const int32_t chunk = blocks.rowBlocks > 1 ? 1 : maximum(1, blocks.panels / (8 * context.pool->threads()));
  parallel(context.pool, blocks.panels * blocks.rowBlocks, chunk, items);
}

}  // namespace
}  // namespace pagoda::PAGODA_ISA

#endif
