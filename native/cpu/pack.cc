#include "pack.h"

#include <algorithm>
#include <type_traits>

#include "bf16.h"
#include "half.h"
#include "kernels.h"
#include "pack-quantized.h"
#include "packed-format.h"
#include "threads.h"

namespace pagoda {
namespace {

struct Bf16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};

float toFloat(float x) { return x; }
float toFloat(Bf16 x) { return bf16ToFloat(x.bits); }

float toFloat(F16 x) { return halfToFloat(x.bits); }

void convert(float x, float& to) { to = x; }
void convert(Bf16 x, float& to) { to = toFloat(x); }
void convert(F16 x, float& to) { to = toFloat(x); }
void convert(Bf16 x, Bf16& to) { to = x; }
template <class From>
void convert(From x, Bf16& to) {
  to = {floatToBf16(toFloat(x))};
}
void convert(F16 x, F16& to) { to = x; }
template <class From>
void convert(From x, F16& to) {
  to = {floatToHalf(toFloat(x))};
}

// The rows of one call, in the element types of source and weight.
template <class To, class From>
struct Packing {
  const PagodaWeight* weight;
  int32_t panelWidth;
  int32_t rowStart;
  int32_t rows;
  const From* source;

  static constexpr int64_t kPair = std::is_same_v<To, Bf16> ? 2 : 1;

  To* data() const { return static_cast<To*>(weight->data); }

  // Panels [begin, end) of those that the rows touch. Columns go block by block, so that writes stay in the cache.
  void packPanels(int32_t begin, int32_t end) const {
    constexpr int32_t kColumns = 64;
    for (int32_t panel = begin; panel < end; ++panel) {
      for (int32_t col = 0; col < weight->cols; col += kColumns) {
        packColumns(panel, col, std::min(col + kColumns, weight->cols));
      }
    }
  }

  void packColumns(int32_t panel, int32_t colBegin, int32_t colEnd) const {
    const int64_t first = (rowStart / panelWidth + panel) * static_cast<int64_t>(panelWidth);
    const int64_t last = std::min<int64_t>(first + panelWidth, rowStart + static_cast<int64_t>(rows));
    for (int64_t row = std::max<int64_t>(first, rowStart); row < last; ++row) {
      const From* from = source + (row - rowStart) * weight->cols;
      To* to = data() + matrixIndex(*weight, panelWidth, static_cast<int32_t>(row), colBegin);
      for (int32_t col = colBegin; col < colEnd; col += kPair, to += panelWidth * kPair) {
        convert(from[col], to[0]);
        if (kPair == 2 && col + 1 < weight->cols) convert(from[col + 1], to[1]);
        if (kPair == 2 && col + 1 == weight->cols) to[1] = {};
      }
    }
    if (last != weight->rows) return;
    for (int64_t row = last; row < first + panelWidth; ++row) zeroColumns(row, colBegin, colEnd);
  }

  // An absent output of the last panel.
  void zeroColumns(int64_t row, int32_t colBegin, int32_t colEnd) const {
    To* to = data() + matrixIndex(*weight, panelWidth, static_cast<int32_t>(row), colBegin);
    for (int32_t col = colBegin; col < colEnd; col += kPair, to += panelWidth * kPair) {
      for (int64_t i = 0; i < kPair; ++i) to[i] = {};
    }
  }

  void copyRows(int32_t begin, int32_t end) const {
    const int64_t cols = weight->cols;
    To* to = data() + rowStart * cols;
    for (int64_t i = begin * cols; i < end * cols; ++i) convert(source[i], to[i]);
  }

  void run(ThreadPool& pool) const {
    void* self = const_cast<Packing*>(this);
    if (rows == 0) return;
    if (weight->kind == PAGODA_MATRIX) {
      const int32_t panels = (rowStart + (rows - 1)) / panelWidth - rowStart / panelWidth + 1;
      return pool.run(
          panels, 1, [](void* p, int32_t b, int32_t e, int32_t) { static_cast<Packing*>(p)->packPanels(b, e); }, self);
    }
    pool.run(
        rows, 64, [](void* p, int32_t b, int32_t e, int32_t) { static_cast<Packing*>(p)->copyRows(b, e); }, self);
  }
};

template <class To>
void packTo(const PagodaWeight& weight, int32_t panelWidth, int32_t rowStart, int32_t rows, const void* source,
            PagodaDtype sourceDtype, ThreadPool& pool) {
  switch (sourceDtype) {
    case PAGODA_F32:
      return Packing<To, float>{&weight, panelWidth, rowStart, rows, static_cast<const float*>(source)}.run(pool);
    case PAGODA_BF16:
      return Packing<To, Bf16>{&weight, panelWidth, rowStart, rows, static_cast<const Bf16*>(source)}.run(pool);
    case PAGODA_F16:
      return Packing<To, F16>{&weight, panelWidth, rowStart, rows, static_cast<const F16*>(source)}.run(pool);
    default:
      return;  // quantised: pack-quantized.h
  }
}

}  // namespace

bool packedBytes(const PagodaWeight& weight, const KernelTable& kernels, uint64_t* bytes) {
  const bool isPacked = weight.kind == PAGODA_MATRIX || isQuantized(weight.dtype);
  const PackedFormat packed = packedFormat(weight.dtype, kernels.byteOffset);
  const bool pairs = weight.dtype == PAGODA_BF16;
  int64_t rows = weight.rows;
  int64_t units = weight.cols;  // a row in blocks, pairs or elements
  int64_t unitBytes = blockFormat(weight.dtype).bytes;
  if (isPacked) rows = (rows + kernels.panelWidth - 1) / kernels.panelWidth * kernels.panelWidth;
  if (isPacked && pairs) units = (units + 1) / 2 * 2;
  if (isQuantized(weight.dtype)) {
    units /= packed.columns();
    unitBytes = packed.blockBytes();
  }
  int64_t size = 0;
  if (__builtin_mul_overflow(rows, units, &size)) return false;
  if (__builtin_mul_overflow(size, unitBytes, &size)) return false;
  *bytes = static_cast<uint64_t>(size);
  return true;
}

void packRows(const PagodaWeight& weight, const KernelTable& kernels, int32_t rowStart, int32_t rows,
              const void* source, PagodaDtype sourceDtype, ThreadPool& pool) {
  if (isQuantized(weight.dtype) || isQuantized(sourceDtype)) {
    packQuantizedRows(weight, kernels, rowStart, rows, source, sourceDtype, pool);
  } else if (weight.dtype == PAGODA_BF16) {
    packTo<Bf16>(weight, kernels.panelWidth, rowStart, rows, source, sourceDtype, pool);
  } else if (weight.dtype == PAGODA_F16) {
    packTo<F16>(weight, kernels.panelWidth, rowStart, rows, source, sourceDtype, pool);
  } else {
    packTo<float>(weight, kernels.panelWidth, rowStart, rows, source, sourceDtype, pool);
  }
}

}  // namespace pagoda
