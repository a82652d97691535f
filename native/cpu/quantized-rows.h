// Rows of activations as 8-bit codes: x is about scale * code, code in [-127, 127].
//
// A scale belongs to 32 columns of a row where weights have 8 bits, else to 256 (PackedFormat::activationColumns). It
// is the largest absolute value of its columns over 127, and a code the nearest integer, ties to even; so the error of
// an element is at most scale / 2. Columns that are all below 2^-100 count as zero, and where one is not finite, scale
// is NaN and so is every result of the row.
#ifndef PAGODA_CPU_QUANTIZED_ROWS_H
#define PAGODA_CPU_QUANTIZED_ROWS_H

#include "isa-kernels.h"
#include "packed-format.h"

namespace pagoda::PAGODA_ISA {
namespace {

// Of one row, 32 columns.
struct QuantizedGroup {
  float scale;
  // What weights with minima, or with an offset of their codes, need: one of the two.
  float sum;          // of the codes
  int32_t starts[2];  // -offset * sum of the codes, where integer sums begin; for halves of 16 columns, or [0] for all
  int8_t codes[kGroupColumns];
};

// [groups, rows]: what a block of rows reads together lies together.
struct QuantizedRows {
  QuantizedGroup* data;
  int32_t rows;
  int32_t groups;

  PAGODA_INLINE QuantizedGroup* at(int32_t g, int32_t row) const { return data + static_cast<int64_t>(g) * rows + row; }
};

uint64_t quantizedRowsBytes(int32_t rows, int32_t cols) {
  return sizeof(QuantizedGroup) * static_cast<uint64_t>(rows) * (cols / kGroupColumns);
}

struct RowScale {
  float scale;
  float inverse;  // 0: all codes are zero
};

// Of `columns` columns, a multiple of 32.
PAGODA_INLINE RowScale measureColumns(const float* x, int32_t columns) {
  constexpr uint32_t kInfinity = 0x7f800000u;
  constexpr float kLeast = 0x1p-100f;
  u32v largest = {};  // bits, which are in the order of absolute values, NaN above infinity
  for (int32_t i = 0; i < columns; i += kLanes) {
    const u32v size = loadWords(x + i) & 0x7fffffffu;
    largest = size > largest ? size : largest;
  }
  const u32v limited = largest < kInfinity ? largest : kInfinity - u32v{};
  const float value = maxOf(reinterpret_cast<f32v>(limited));
  if (!(value < __builtin_inff())) return {__builtin_nanf(""), 0.0f};
  return value < kLeast ? RowScale{0.0f, 0.0f} : RowScale{value / 127, 127 / value};
}

// Rounds 16 columns and returns the sum of their codes.
PAGODA_INLINE float roundColumns(const float* x, float inverse, int8_t* codes) {
  const f32v magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  f32v total = zero();
  for (int32_t i = 0; i < kGroupColumns / 2; i += kLanes) {
    const f32v shifted = add(mul(load(x + i), broadcast(inverse)), magic);
    storeLowBytes(codes + i, shifted);
    total = add(total, sub(shifted, magic));
  }
  return sum(total);
}

void roundGroup(const float* x, RowScale scale, PackedFormat format, QuantizedGroup* to) {
  const bool isZero = scale.inverse == 0.0f;  // x may be NaN then
  const float low = roundColumns(x, scale.inverse, to->codes);
  const float high = roundColumns(x + 16, scale.inverse, to->codes + 16);
  const float sum = isZero ? 0 : low + high;
  const bool halves = format.scales == 2;
  to->scale = scale.scale;
  to->sum = sum;
  to->starts[0] = -format.offset * static_cast<int32_t>(halves && !isZero ? low : sum);
  to->starts[1] = -format.offset * static_cast<int32_t>(halves && !isZero ? high : 0);
}

void quantizeRow(const float* x, int32_t row, PackedFormat format, const QuantizedRows& to) {
  const int32_t groupsOfScale = format.activationColumns() / kGroupColumns;
  for (int32_t first = 0; first < to.groups; first += groupsOfScale) {
    const int32_t end = minimum(first + groupsOfScale, to.groups);
    const RowScale scale = measureColumns(x + first * kGroupColumns, (end - first) * kGroupColumns);
    for (int32_t g = first; g < end; ++g) roundGroup(x + g * kGroupColumns, scale, format, to.at(g, row));
  }
}

}  // namespace
}  // namespace pagoda::PAGODA_ISA

#endif
