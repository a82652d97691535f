#include "pack-quantized.h"

#include <algorithm>
#include <cstring>

#include "bf16.h"
#include "block-codec.h"
#include "half.h"
#include "kernels.h"
#include "packed-format.h"
#include "threads.h"

namespace pagoda {
namespace {

template <class ToFloat>
void readHalves(const uint8_t* from, int32_t count, float* values, ToFloat toFloat) {
  for (int32_t i = 0; i < count; ++i) {
    uint16_t bits;
    std::memcpy(&bits, from + 2 * i, sizeof bits);
    values[i] = toFloat(bits);
  }
}

// Columns [col, col + count) of a row as floats; col and count are multiples of the source's block.
void readFloats(const uint8_t* row, PagodaDtype dtype, int32_t col, int32_t count, float* values) {
  const BlockFormat format = blockFormat(dtype);
  const uint8_t* from = row + static_cast<int64_t>(col) / format.columns * format.bytes;
  if (dtype == PAGODA_F32) {
    std::memcpy(values, from, sizeof(float) * count);
  } else if (dtype == PAGODA_BF16) {
    readHalves(from, count, values, bf16ToFloat);
  } else if (dtype == PAGODA_F16) {
    readHalves(from, count, values, halfToFloat);
  } else {
    for (int32_t i = 0; i < count; i += format.columns, from += format.bytes) dequantizeBlock(dtype, from, values + i);
  }
}

// Four codes, one a byte.
uint32_t loadStep(const uint8_t* codes, int32_t step) {
  uint32_t word;
  std::memcpy(&word, codes + 4 * step, sizeof word);
  return word;
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

  // The word of this output in the i-th of arrays [W] of words.
  void word(uint8_t* words, int32_t i, uint32_t value) const {
    std::memcpy(words + 4 * (static_cast<int64_t>(i) * width_ + output_), &value, sizeof value);
  }

  void codes(uint8_t* to, const uint8_t* from) const {
    constexpr int32_t kSteps = kGroupColumns / 4;
    if (format_.bits == 8) {
      const uint32_t flip = format_.offset == 128 ? 0 : 0x80808080u;  // of `from` it is 128
      for (int32_t s = 0; s < kSteps; ++s) word(to, s, loadStep(from, s) ^ flip);
      return;
    }
    for (int32_t s = 0; s < kSteps; s += 2) {
      word(to, s / 2, (loadStep(from, s) & 0x0f0f0f0fu) | (loadStep(from, s + 1) & 0x0f0f0f0fu) << 4);
    }
  }

  // `bits` bits a code in as many planes.
  void high(uint8_t* to, const uint8_t* from) const {
    const int32_t bits = format_.highBytes() / 4;
    for (int32_t plane = 0; plane < bits; ++plane) {
      const int32_t steps = 8 / bits;
      uint32_t packed = 0;
      for (int32_t s = 0; s < steps; ++s) {
        packed |= (loadStep(from, plane * steps + s) >> 4 & 0x0f0f0f0fu) << (bits * s);
      }
      word(to, plane, packed);
    }
  }

  void factors(uint8_t* group, const BlockParts& parts, int32_t g) const {
    uint8_t* scale = group + format_.scaleAt() * width_;
    uint8_t* min = group + format_.minAt() * width_;
    if (format_.fp4) {
      scale[output_] = parts.scales[0];
      return;
    }
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
  const KernelTable& kernels;
  int32_t rowStart;
  int32_t rows;
  const uint8_t* source;
  PagodaDtype sourceDtype;

  const uint8_t* sourceRow(int64_t row) const {
    return source + (row - rowStart) * rowBytes(sourceDtype, weight->cols);
  }

  // Panels [begin, end) of those that the rows touch, block by block, so that writes stay in the cache.
  void packPanels(int32_t begin, int32_t end) const {
    const PackedFormat format = packedFormat(weight->dtype, kernels.byteOffset);
    const int32_t blocks = weight->cols / format.columns();
    const int64_t blockBytes = static_cast<int64_t>(format.blockBytes()) * kernels.panelWidth;
    for (int64_t panel = rowStart / kernels.panelWidth + begin; panel < rowStart / kernels.panelWidth + end; ++panel) {
      uint8_t* to = static_cast<uint8_t*>(weight->data) + panel * blocks * blockBytes;
      for (int32_t block = 0; block < blocks; ++block) packBlock(format, panel, block, to + block * blockBytes);
    }
  }

  void packBlock(PackedFormat format, int64_t panel, int32_t block, uint8_t* to) const {
    const int64_t first = panel * kernels.panelWidth;
    const int64_t last = std::min<int64_t>(first + kernels.panelWidth, rowStart + static_cast<int64_t>(rows));
    BlockParts parts = {};
    for (int64_t row = std::max<int64_t>(first, rowStart); row < last; ++row) {
      readParts(sourceRow(row), block * format.columns(), parts);
      BlockWriter(format, kernels.panelWidth, to, static_cast<int32_t>(row - first)).write(parts);
    }
    if (last != weight->rows) return;
    const BlockParts absent = {};
    for (int64_t row = last; row < first + kernels.panelWidth; ++row) {
      BlockWriter(format, kernels.panelWidth, to, static_cast<int32_t>(row - first)).write(absent);
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
    kernels.quantizeBlock(weight->dtype, values + (col - aligned), block);
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
    const int64_t padded =
        (weight->rows + kernels.panelWidth - 1) / kernels.panelWidth * static_cast<int64_t>(kernels.panelWidth);
    for (int64_t row = weight->rows; row < padded; ++row) {
      for (int32_t col = 0; col < weight->cols; ++col) store(static_cast<int32_t>(row), col, 0);
    }
  }

  void store(int32_t row, int32_t col, float value) const {
    const int64_t at = weight->kind == PAGODA_MATRIX ? matrixIndex(*weight, kernels.panelWidth, row, col)
                                                     : static_cast<int64_t>(row) * weight->cols + col;
    if (weight->dtype == PAGODA_BF16) {
      static_cast<uint16_t*>(weight->data)[at] = floatToBf16(value);
    } else if (weight->dtype == PAGODA_F16) {
      static_cast<uint16_t*>(weight->data)[at] = floatToHalf(value);
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

void packQuantizedRows(const PagodaWeight& weight, const KernelTable& kernels, int32_t rowStart, int32_t rows,
                       const void* source, PagodaDtype sourceDtype, ThreadPool& pool) {
  if (rows == 0) return;
  Packing packing = {&weight, kernels, rowStart, rows, static_cast<const uint8_t*>(source), sourceDtype};
  if (!isQuantized(weight.dtype)) {
    return pool.run(
        rows, 16, [](void* p, int32_t b, int32_t e, int32_t) { static_cast<Packing*>(p)->expandRows(b, e); }, &packing);
  }
  const int32_t panels = (rowStart + (rows - 1)) / kernels.panelWidth - rowStart / kernels.panelWidth + 1;
  pool.run(
      panels, 1, [](void* p, int32_t b, int32_t e, int32_t) { static_cast<Packing*>(p)->packPanels(b, e); }, &packing);
}

}  // namespace pagoda
