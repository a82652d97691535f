// Grouped products of heads, in one parallel region over panels and blocks of rows. Panels (kernels.h) go through all
// heads: where the outputs of a head do not fill panels, heads share one, and a work item computes it for each of them.
#include "per-head-linear.h"

#include "packed-rows.h"

namespace pagoda::PAGODA_ISA {
namespace {

constexpr int32_t kMaxBlockRows = 240;  // a multiple of all register blocks

struct Places {
  int32_t rowBlocks;
  int32_t rowsPerBlock;
  int64_t sumsPerWorker;  // floats
  int64_t bytesPerHead;   // of packed rows
  int64_t packedBytes;    // of all heads; sums lie behind them
};

Places placesOf(const PagodaWeight& weight, int32_t heads, int32_t rows) {
  const int32_t blocks = static_cast<int32_t>(ceilDiv(rows, kMaxBlockRows));
  const int32_t rowsPerBlock = static_cast<int32_t>(ceilDiv(rows, blocks));
  const int64_t bytes = roundUp(static_cast<int64_t>(packedRowsBytes(weight.dtype, rows, weight.cols)), 64);
  return {blocks, rowsPerBlock, static_cast<int64_t>(rowsPerBlock) * kPanelWidth, bytes, bytes * heads};
}

// Calls body(head, first, width) for the heads that have outputs [first, first + width) of the stacked weight in a
// panel.
template <class Body>
void forHeadsOf(const PagodaWeight& weight, int32_t heads, int32_t panel, Body body) {
  const int32_t outputs = weight.rows / heads;
  const int32_t end = minimum((panel + 1) * kPanelWidth, weight.rows);
  for (int32_t first = panel * kPanelWidth; first < end;) {
    const int32_t head = first / outputs;
    const int32_t width = minimum((head + 1) * outputs, end) - first;
    body(head, first, width);
    first += width;
  }
}

}  // namespace

uint64_t linearPerHeadScratch(const PagodaWeight& weight, int32_t heads, int32_t rows, int32_t threads) {
  if (rows == 0) return 0;
  const Places places = placesOf(weight, heads, rows);
  return places.packedBytes + sizeof(float) * threads * places.sumsPerWorker;
}

void linearPerHead(const KernelContext& context, const PagodaWeight& weight, int32_t heads, int32_t rows,
                   const HeadRows& x, const HeadRows& out) {
  if (rows == 0) return;
  const Places places = placesOf(weight, heads, rows);
  char* memory = static_cast<char*>(context.scratch);
  const auto packed = [&](int32_t head) {
    return PackedRows{memory + head * places.bytesPerHead, rows, weight.cols, weight.dtype};
  };
  parallelRows(context.pool, rows * heads, weight.cols,
               [&](int32_t i) { packRow(packed(i % heads), i / heads, x.at(i / heads, i % heads)); });

  const int32_t outputs = weight.rows / heads;
  const int32_t panels = static_cast<int32_t>(ceilDiv(weight.rows, kPanelWidth));
  float* sums = reinterpret_cast<float*>(memory + places.packedBytes);
  auto items = [&](int32_t begin, int32_t end, int32_t worker) {
    float* own = sums + worker * places.sumsPerWorker;
    for (int32_t item = begin; item < end; ++item) {
      const int32_t row = item % places.rowBlocks * places.rowsPerBlock;
      const int32_t count = minimum(places.rowsPerBlock, rows - row);
      const int32_t panel = item / places.rowBlocks;
      forHeadsOf(weight, heads, panel, [&](int32_t head, int32_t first, int32_t width) {
        multiplyPackedPanel(packed(head), row, count, weight, panel, own);
        for (int32_t r = 0; r < count; ++r) {
          const float* from = own + static_cast<int64_t>(r) * kPanelWidth + first % kPanelWidth;
          float* to = out.at(row + r, head) + first - head * outputs;
          forVectors(width, [&](int32_t i, int n) { storeSome(to + i, loadSome(from + i, n), n); });
        }
      });
    }
  };
  const int32_t count = panels * places.rowBlocks;
  parallel(context.pool, count, maximum(1, count / (8 * context.pool->threads())), items);
}

}  // namespace pagoda::PAGODA_ISA
