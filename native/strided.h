// Matrices whose elements do not lie one behind the other in a file: transposed ones, or every second row.
#pragma once

#include <cstdint>

#include "backend.h"
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

/// The transpose of rows of quantised blocks, from `offset` bytes on.
struct TransposedBlocks {
  uint64_t offset;
  PagodaDtype dtype;
  int32_t rowLength;  // columns of the file's rows, whole blocks
  int32_t cols;       // of the transpose: rows in the file
};

/// Reads rows [row, row + rows) of the transpose as f32, row-major. Throws PAGODA_IO.
void readTransposed(const File& file, const TransposedBlocks& matrix, int32_t row, int32_t rows, char* into);

}  // namespace pagoda
