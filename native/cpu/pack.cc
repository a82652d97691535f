#include "pack.h"

#include <algorithm>
#include <cstring>

#include "bf16.h"
#include "kernels.h"
#include "threads.h"

namespace pagoda {
namespace {

struct Bf16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};

float floatOf(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

float toFloat(float x) { return x; }
float toFloat(Bf16 x) { return bf16ToFloat(x.bits); }

// Exact, subnormals, infinities and NaN included.
float toFloat(F16 x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  const uint32_t size = static_cast<uint32_t>(x.bits & 0x7fffu) << 13;
  if (size >= 0x0f800000u) return floatOf(sign | size | 0x7f800000u);
  // Read as f32 the exponent is too small by 127 - 15; the product also renormalises subnormals.
  const float value = floatOf(size) * floatOf((127 + 127 - 15) << 23);
  return sign != 0 ? -value : value;
}

void convert(float x, float& to) { to = x; }
void convert(Bf16 x, float& to) { to = toFloat(x); }
void convert(F16 x, float& to) { to = toFloat(x); }
void convert(Bf16 x, Bf16& to) { to = x; }
template <class From>
void convert(From x, Bf16& to) {
  to = {floatToBf16(toFloat(x))};
}

// The rows of one call, in the element types of source and weight.
template <class To, class From>
struct Packing {
  const PagodaWeight* weight;
  int32_t panelWidth;
  int32_t rowStart;
  int32_t rows;
  const From* source;

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
    constexpr int64_t kPair = sizeof(To) == 2 ? 2 : 1;
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
    constexpr int64_t kPair = sizeof(To) == 2 ? 2 : 1;
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
  }
}

}  // namespace

bool packedBytes(const PagodaWeight& weight, int32_t panelWidth, uint64_t* bytes) {
  const bool pairs = weight.dtype == PAGODA_BF16;
  int64_t rows = weight.rows;
  int64_t cols = weight.cols;
  if (weight.kind == PAGODA_MATRIX) {
    rows = (rows + panelWidth - 1) / panelWidth * panelWidth;
    cols = pairs ? (cols + 1) / 2 * 2 : cols;
  }
  int64_t size = 0;
  if (__builtin_mul_overflow(rows, cols, &size)) return false;
  if (__builtin_mul_overflow(size, pairs ? int64_t{2} : int64_t{4}, &size)) return false;
  *bytes = static_cast<uint64_t>(size);
  return true;
}

void packRows(const PagodaWeight& weight, int32_t panelWidth, int32_t rowStart, int32_t rows, const void* source,
              PagodaDtype sourceDtype, ThreadPool& pool) {
  if (weight.dtype == PAGODA_BF16) {
    packTo<Bf16>(weight, panelWidth, rowStart, rows, source, sourceDtype, pool);
  } else {
    packTo<float>(weight, panelWidth, rowStart, rows, source, sourceDtype, pool);
  }
}

}  // namespace pagoda
