#include "strided.h"

#include <cstring>
#include <utility>
#include <vector>

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

}  // namespace pagoda
