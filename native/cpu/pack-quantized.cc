#include "pack-quantized.h"

#include <algorithm>
#include <cstring>

#include "bf16.h"
#include "block-codec.h"
#include "half.h"
#include "kernels.h"
#include "threads.h"

namespace pagoda {
namespace {

// Columns [col, col + count) of a row as floats; col and count are multiples of the source's block.
void readFloats(const uint8_t* row, PagodaDtype dtype, int32_t col, int32_t count, float* values) {
  const BlockFormat format = blockFormat(dtype);
  const uint8_t* from = row + static_cast<int64_t>(col) / format.columns * format.bytes;
  for (int32_t i = 0; i < count; i += format.columns, from += format.bytes) {
    uint16_t bits;
    std::memcpy(&bits, from, sizeof bits);
    if (dtype == PAGODA_F32) {
      std::memcpy(values + i, from, sizeof(float));
    } else if (dtype == PAGODA_BF16) {
      values[i] = bf16ToFloat(bits);
    } else if (dtype == PAGODA_F16) {
      values[i] = halfToFloat(bits);
    } else {
      dequantizeBlock(dtype, from, values + i);
    }
  }
}

// Writes one output's share of a block, `at` being output 0's; see packed-format.h.
class BlockWriter {
 public:
  BlockWriter(PackedFormat format, int32_t width, uint8_t* block, int32_t output)
      : format_(format), width_(width), block_(block), output_(output) {}

  void write(const BlockParts& parts) const {
    if (format_.header) {
      half(block_, parts.d);
      if (format_.mins) half(block_ + 2 * width_, parts.m);
    }
    for (int32_t g = 0; g < format_.groups(); ++g) {
      uint8_t* group = block_ + (format_.headerBytes() + g * format_.groupBytes()) * static_cast<int64_t>(width_);
      codes(group, parts.codes + g * kGroupColumns);
      high(group + format_.codeBytes() * width_, parts.codes + g * kGroupColumns);
      factors(group, parts, g);
    }
  }

 private:
  void half(uint8_t* values, uint16_t bits) const { std::memcpy(values + 2 * output_, &bits, sizeof bits); }

  void codes(uint8_t* to, const uint8_t* from) const {
    to += 4 * output_;
    if (format_.bits == 8) {
      const uint8_t flip = format_.offset == 128 ? 0 : 128;  // of `from` it is 128
      for (int32_t i = 0; i < kGroupColumns; ++i) to[i / 4 * 4 * width_ + i % 4] = from[i] ^ flip;
      return;
    }
    for (int32_t i = 0; i < kGroupColumns / 2; ++i) {
      const uint8_t* low = from + i / 4 * 8 + i % 4;
      to[i / 4 * 4 * width_ + i % 4] = static_cast<uint8_t>((low[0] & 15) | low[4] << 4);
    }
  }

  void high(uint8_t* to, const uint8_t* from) const {
    const int32_t planes = format_.highBytes() / 4;
    const int32_t bits = planes;  // one a code in one plane, two a code in two
    for (int32_t i = 0; i < 4 * planes; ++i) {
      const int32_t steps = 8 / bits;
      const uint8_t* first = from + i / 4 * 4 * steps + i % 4;
      uint32_t byte = 0;
      for (int32_t s = 0; s < steps; ++s) byte |= static_cast<uint32_t>(first[4 * s] >> 4) << (bits * s);
      to[i / 4 * 4 * width_ + 4 * output_ + i % 4] = static_cast<uint8_t>(byte);
    }
  }

  void factors(uint8_t* group, const BlockParts& parts, int32_t g) const {
    uint8_t* scale = group + format_.scaleAt() * width_;
    uint8_t* min = group + format_.minAt() * width_;
    if (!format_.header) {
      half(scale, parts.d);
      if (format_.mins) half(min, parts.m);
      return;
    }
    for (int32_t s = 0; s < format_.scales; ++s) scale[s * width_ + output_] = parts.scales[g * format_.scales + s];
    if (format_.mins) min[output_] = parts.mins[g];
  }

  PackedFormat format_;
  int32_t width_;
  uint8_t* block_;
  int32_t output_;
};

// The rows of one call.
struct Packing {
  const PagodaWeight* weight;
  PanelShape shape;
  int32_t rowStart;
  int32_t rows;
  const uint8_t* source;
  PagodaDtype sourceDtype;

  const uint8_t* sourceRow(int64_t row) const {
    return source + (row - rowStart) * rowBytes(sourceDtype, weight->cols);
  }

  // Panels [begin, end) of those that the rows touch, block by block, so that writes stay in the cache.
  void packPanels(int32_t begin, int32_t end) const {
    const PackedFormat format = packedFormat(weight->dtype, shape.byteOffset);
    const int32_t blocks = weight->cols / format.columns();
    const int64_t blockBytes = static_cast<int64_t>(format.blockBytes()) * shape.width;
    for (int64_t panel = rowStart / shape.width + begin; panel < rowStart / shape.width + end; ++panel) {
      uint8_t* to = static_cast<uint8_t*>(weight->data) + panel * blocks * blockBytes;
      for (int32_t block = 0; block < blocks; ++block) packBlock(format, panel, block, to + block * blockBytes);
    }
  }

  void packBlock(PackedFormat format, int64_t panel, int32_t block, uint8_t* to) const {
    const int64_t first = panel * shape.width;
    const int64_t last = std::min<int64_t>(first + shape.width, rowStart + static_cast<int64_t>(rows));
    BlockParts parts = {};
    for (int64_t row = std::max<int64_t>(first, rowStart); row < last; ++row) {
      readParts(sourceRow(row), block * format.columns(), parts);
      BlockWriter(format, shape.width, to, static_cast<int32_t>(row - first)).write(parts);
    }
    if (last != weight->rows) return;
    const BlockParts absent = {};
    for (int64_t row = last; row < first + shape.width; ++row) {
      BlockWriter(format, shape.width, to, static_cast<int32_t>(row - first)).write(absent);
    }
  }

  // The block at `col` in the weight's own format.
  void readParts(const uint8_t* row, int32_t col, BlockParts& parts) const {
    const BlockFormat format = blockFormat(weight->dtype);
    if (sourceDtype == weight->dtype)
      return decodeBlock(weight->dtype, row + col / format.columns * format.bytes, parts);
    const int32_t columns = blockFormat(sourceDtype).columns;
    const int32_t aligned = col / columns * columns;
    float values[kMaxBlockColumns];
    uint8_t block[sizeof(BlockQ6_K)];  // the largest
    readFloats(row, sourceDtype, aligned, std::max(columns, format.columns), values);
    quantizeBlock(weight->dtype, values + (col - aligned), block);
    decodeBlock(weight->dtype, block, parts);
  }

  // Rows [begin, end) of a quantised source as plain numbers.
  void expandRows(int32_t begin, int32_t end) const {
    const int32_t columns = blockFormat(sourceDtype).columns;
    float values[kMaxBlockColumns];
    for (int64_t row = rowStart + begin; row < static_cast<int64_t>(rowStart) + end; ++row) {
      for (int32_t col = 0; col < weight->cols; col += columns) {
        readFloats(sourceRow(row), sourceDtype, col, columns, values);
        for (int32_t i = 0; i < columns; ++i) store(static_cast<int32_t>(row), col + i, values[i]);
      }
    }
    if (weight->kind != PAGODA_MATRIX || rowStart + end != weight->rows) return;
    const int64_t padded = (weight->rows + shape.width - 1) / shape.width * static_cast<int64_t>(shape.width);
    for (int64_t row = weight->rows; row < padded; ++row) {
      for (int32_t col = 0; col < weight->cols; ++col) store(static_cast<int32_t>(row), col, 0);
    }
  }

  void store(int32_t row, int32_t col, float value) const {
    const int64_t at = weight->kind == PAGODA_MATRIX ? matrixIndex(*weight, shape.width, row, col)
                                                     : static_cast<int64_t>(row) * weight->cols + col;
    if (weight->dtype == PAGODA_BF16) {
      static_cast<uint16_t*>(weight->data)[at] = floatToBf16(value);
    } else {
      static_cast<float*>(weight->data)[at] = value;
    }
  }
};

}  // namespace

bool canPack(PagodaDtype dtype, PagodaDtype source) {
  if (blockFormat(source).bytes == 0) return false;
  return !isQuantized(dtype) || dtype == source || canQuantize(dtype);
}

void packQuantizedRows(const PagodaWeight& weight, PanelShape shape, int32_t rowStart, int32_t rows, const void* source,
                       PagodaDtype sourceDtype, ThreadPool& pool) {
  if (rows == 0) return;
  Packing packing = {&weight, shape, rowStart, rows, static_cast<const uint8_t*>(source), sourceDtype};
  if (!isQuantized(weight.dtype)) {
    return pool.run(
        rows, 16, [](void* p, int32_t b, int32_t e, int32_t) { static_cast<Packing*>(p)->expandRows(b, e); }, &packing);
  }
  const int32_t panels = (rowStart + (rows - 1)) / shape.width - rowStart / shape.width + 1;
  pool.run(
      panels, 1, [](void* p, int32_t b, int32_t e, int32_t) { static_cast<Packing*>(p)->packPanels(b, e); }, &packing);
}

}  // namespace pagoda
