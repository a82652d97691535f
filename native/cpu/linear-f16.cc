// f16 weights are widened as they are read, exactly, and multiplied in f32: the bits are those of the same weights in
// f32, for half the memory.
#include "linear-f16.h"

#include "linear-blocks.h"
#include "tile.h"

namespace pagoda::PAGODA_ISA {
namespace {

constexpr int32_t kPanelBytes = 128 * 1024;  // of a panel in the cache at a time
constexpr int32_t kDepth = kPanelBytes / (kPanelWidth * sizeof(uint16_t));

// As FloatTile of tile.h, B being halves.
struct HalfTile {
  using A = float;
  using B = uint16_t;
  static constexpr int kDepthPerStep = 1;

  template <int kRows, int kVectors>
  PAGODA_INLINE static void accumulate(f32v (&c)[kRows][kVectors], int32_t depth, const A* a, int64_t lda, const B* b,
                                       int64_t ldb, Ahead ahead) {
    for (int32_t k = 0; k < depth; ++k, b += ldb) {
      ahead.fetch();
      f32v row[kVectors];
      for (int v = 0; v < kVectors; ++v) row[v] = loadHalves(b + v * kLanes);
      for (int r = 0; r < kRows; ++r) {
        const f32v value = broadcast(a[r * lda + k]);
        for (int v = 0; v < kVectors; ++v) c[r][v] = fma(value, row[v], c[r][v]);
      }
    }
  }
};

// sums[rows, kPanelWidth] = x[rows, depth] panel, a part of the depth at a time.
void multiplyPanel(int32_t rows, int32_t depth, const float* x, int64_t stride, const uint16_t* panel, float* sums) {
  for (int32_t k = 0; k < depth; k += kDepth) {
    const int32_t n = minimum(kDepth, depth - k);
    forRowBlocks(rows, [&](int32_t r, int32_t count) {
      multiply<HalfTile>(count, kPanelVectors, n, x + r * stride + k, stride,
                         panel + static_cast<int64_t>(k) * kPanelWidth, kPanelWidth,
                         sums + static_cast<int64_t>(r) * kPanelWidth, kPanelWidth, k > 0);
    });
  }
}

const uint16_t* panelOf(const PagodaWeight& weight, int32_t panel) {
  return static_cast<const uint16_t*>(weight.data) + static_cast<int64_t>(panel) * weight.cols * kPanelWidth;
}

}  // namespace

void linearF16(const KernelContext& context, const PagodaLinear& op) {
  const int32_t depth = op.weight.cols;
  const Blocks blocks = cut(op, context.pool->threads(), kTileRows);
  forPanels(context, op, blocks, static_cast<float*>(context.scratch),
            [&](int32_t first, int32_t rows, int32_t panel, float* sums) {
              multiplyPanel(rows, depth, rowOf(op.x, first), op.x.rowStride, panelOf(op.weight, panel), sums);
            });
}

void multiplyF16Panel(const PackedRows& x, int32_t first, int32_t count, const PagodaWeight& weight, int32_t panel,
                      float* sums) {
  const float* rows = static_cast<const float*>(x.data) + static_cast<int64_t>(first) * x.width;
  multiplyPanel(count, x.width, rows, x.width, panelOf(weight, panel), sums);
}

}  // namespace pagoda::PAGODA_ISA
