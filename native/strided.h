// Matrices whose elements do not lie one behind the other in a file: transposed ones, or every second row.
#pragma once

#include <cstdint>

#include "file.h"

namespace pagoda {

/// From one row, and from one column, to the next; in elements.
struct Strides {
  uint64_t row;
  uint64_t col;
};

/// A matrix in a file, from `offset` bytes on.
struct StridedMatrix {
  uint64_t offset;
  Strides strides;
  uint64_t elementBytes;
  int32_t cols;
};

/// Reads rows [row, row + rows), row-major. Throws PAGODA_IO.
void readStrided(const File& file, const StridedMatrix& matrix, int32_t row, int32_t rows, char* into);

}  // namespace pagoda
