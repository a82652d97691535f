#include "strided.h"

#include <cstring>
#include <utility>
#include <vector>

#include "block-formats.h"
#include "cpu/block-codec.h"

namespace pagoda {

namespace {

/// Elements that are read together: `count` of them, `from` bytes apart in the file and `to` bytes in memory.
struct Line {
  uint64_t count;
  uint64_t from;
  uint64_t to;
};

void scatter(const char* source, const Line& line, uint64_t elementBytes, char* into) {
  for (uint64_t i = 0; i < line.count; ++i) std::memcpy(into + i * line.to, source + i * line.from, elementBytes);
}

}  // namespace

void readStrided(const File& file, const StridedMatrix& matrix, int32_t row, int32_t rows, char* into) {
  const uint64_t bytes = matrix.elementBytes;
  const uint64_t start = matrix.offset + row * matrix.strides.row * bytes;
  Line rowLine{static_cast<uint64_t>(matrix.cols), matrix.strides.col * bytes, bytes};
  Line colLine{static_cast<uint64_t>(rows), matrix.strides.row * bytes, matrix.cols * bytes};
  // Along the smaller stride, so that a read brings few elements that are not wanted.
  Line &inner = rowLine, &outer = colLine;
  if (rows > 1 && matrix.strides.row < matrix.strides.col) std::swap(inner, outer);
  std::vector<char> buffer((inner.count - 1) * inner.from + bytes);
  for (uint64_t i = 0; i < outer.count; ++i) {
    file.read(start + i * outer.from, buffer.data(), buffer.size());
    scatter(buffer.data(), inner, bytes, into + i * outer.to);
  }
}

void readTransposed(const File& file, const TransposedBlocks& matrix, int32_t row, int32_t rows, char* into) {
  const BlockFormat format = blockFormat(matrix.dtype);
  std::vector<char> blocks(rowBytes(matrix.dtype, matrix.rowLength));
  std::vector<float> values(matrix.rowLength);
  for (int64_t col = 0; col < matrix.cols; ++col) {
    file.read(matrix.offset + col * blocks.size(), blocks.data(), blocks.size());
    for (int32_t i = 0; i < matrix.rowLength / format.columns; ++i) {
      dequantizeBlock(matrix.dtype, &blocks[static_cast<size_t>(i) * format.bytes], &values[i * format.columns]);
    }
    for (int64_t r = 0; r < rows; ++r) {
      std::memcpy(into + (r * matrix.cols + col) * sizeof(float), &values[row + r], sizeof(float));
    }
  }
}

}  // namespace pagoda
