// out[t] = table[tokenIds[t]] * scale
#include "bf16.h"
#include "block-codec.h"
#include "half.h"
#include "isa-kernels.h"
#include "packed-format.h"

namespace pagoda::PAGODA_ISA {
namespace {

template <class Element>
void scaleRow(const Element* row, int32_t width, float scale, float* out) {
  forVectors(width, [&](int32_t i, int n) { storeSome(out + i, mul(loadSome(row + i, n), broadcast(scale)), n); });
}

void scaleHalves(const uint16_t* row, int32_t width, float scale, float* out) {
  forVectors(width, [&](int32_t i, int n) {
    uint16_t lanes[kLanes] = {};
    __builtin_memcpy(lanes, row + i, sizeof(uint16_t) * n);
    storeSome(out + i, mul(loadHalves(lanes), broadcast(scale)), n);
  });
}

float elementAt(const PagodaWeight& weight, int64_t i) {
  if (weight.dtype == PAGODA_BF16) return bf16ToFloat(static_cast<const uint16_t*>(weight.data)[i]);
  if (weight.dtype == PAGODA_F16) return halfToFloat(static_cast<const uint16_t*>(weight.data)[i]);
  return static_cast<const float*>(weight.data)[i];
}

// A row of a packed matrix lies panelWidth elements (or pairs) apart.
void scaleMatrixRow(const PagodaWeight& matrix, int32_t row, float scale, float* out) {
  for (int32_t col = 0; col < matrix.cols; ++col) {
    const int64_t i = matrixIndex(matrix, kPanelWidth, row, col);
    out[col] = elementAt(matrix, i) * scale;
  }
}

uint16_t halfAt(const uint8_t* values, int32_t i) {
  uint16_t bits;
  __builtin_memcpy(&bits, values + 2 * i, sizeof bits);
  return bits;
}

// One output of one block of a quantised matrix or table, see packed-format.h.
struct PackedBlock {
  PackedFormat format;
  const uint8_t* block;
  int32_t output;

  const uint8_t* group(int32_t g) const {
    return block + (format.headerBytes() + g * format.groupBytes()) * static_cast<int64_t>(kPanelWidth);
  }

  int32_t code(int32_t g, int32_t column) const {
    const int32_t step = column / 4;
    const uint8_t* codes = group(g) + 4 * output + column % 4;
    if (format.bits == 8) {
      const uint8_t byte = codes[step * 4 * kPanelWidth];
      return format.offset == 0 ? static_cast<int8_t>(byte) : byte;
    }
    const int32_t low = codes[step / 2 * 4 * kPanelWidth] >> (step % 2 * 4) & 15;
    if (format.fp4) return kDoubledFp4[low] + format.offset;
    if (format.bits == 4) return low;
    const uint8_t* high = codes + format.codeBytes() * kPanelWidth;
    if (format.bits == 5) return low | (high[0] >> step & 1) << 4;
    return low | (high[step / 4 * 4 * kPanelWidth] >> (step % 4 * 2) & 3) << 4;
  }

  float scale(int32_t g, int32_t column) const {
    const uint8_t* scales = group(g) + format.scaleAt() * kPanelWidth;
    if (format.fp4) return halvedPower(scales[output]);
    if (!format.header) return halfToFloat(halfAt(scales, output));
    const float d = halfToFloat(halfAt(block, output));
    if (format.scales == 1) return d * scales[output];
    return d * static_cast<int8_t>(scales[column / 16 * kPanelWidth + output]);
  }

  float min(int32_t g) const {
    if (!format.mins) return 0;
    const uint8_t* mins = group(g) + format.minAt() * kPanelWidth;
    if (!format.header) return halfToFloat(halfAt(mins, output));
    return halfToFloat(halfAt(block + 2 * kPanelWidth, output)) * mins[output];
  }
};

void scaleQuantizedRow(const PagodaWeight& table, int32_t row, float scale, float* out) {
  const PackedFormat format = packedFormat(table.dtype, kByteOffset);
  const int32_t blocks = table.cols / format.columns();
  const int64_t blockBytes = static_cast<int64_t>(format.blockBytes()) * kPanelWidth;
  const uint8_t* panel = static_cast<const uint8_t*>(table.data) + row / kPanelWidth * blocks * blockBytes;
  for (int32_t col = 0; col < table.cols; ++col) {
    const PackedBlock block = {format, panel + col / format.columns() * blockBytes, row % kPanelWidth};
    const int32_t g = col % format.columns() / kGroupColumns;
    const int32_t column = col % kGroupColumns;
    const float code = static_cast<float>(block.code(g, column) - format.offset);
    out[col] = (block.scale(g, column) * code + block.min(g)) * scale;
  }
}

}  // namespace

void embed(const KernelContext& context, const PagodaEmbed& op) {
  const PagodaWeight& table = op.table;
  parallelRows(context.pool, op.out.rows, table.cols, [&](int32_t t) {
    const int32_t row = op.tokenIds[t];
    const int64_t start = static_cast<int64_t>(row) * table.cols;
    float* out = rowOf(op.out, t);
    if (isQuantized(table.dtype)) {
      scaleQuantizedRow(table, row, op.scale, out);
    } else if (table.kind == PAGODA_MATRIX) {
      scaleMatrixRow(table, row, op.scale, out);
    } else if (table.dtype == PAGODA_BF16) {
      scaleRow(static_cast<const uint16_t*>(table.data) + start, table.cols, op.scale, out);
    } else if (table.dtype == PAGODA_F16) {
      scaleHalves(static_cast<const uint16_t*>(table.data) + start, table.cols, op.scale, out);
    } else {
      scaleRow(static_cast<const float*>(table.data) + start, table.cols, op.scale, out);
    }
  });
}

}  // namespace pagoda::PAGODA_ISA
