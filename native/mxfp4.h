// MXFP4 weights of Hugging Face directories (gpt-oss), whose codes and exponents are tensors of their own, turned into
// the blocks of block-formats.h as they are read.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "file.h"

namespace pagoda {

/// What a part needs besides its place in the file, which is that of the codes: bytes [tensor rows, cols / 2] of two
/// neighbouring columns, the first in the low bits. Exponents are bytes [tensor rows, cols / 32].
struct SplitMxfp4 {
  std::string scaleFile;
  uint64_t scaleOffset;
  uint64_t firstRow;  // of the part, within the tensor
  uint64_t rowStep;   // from one row of the part to the next
};

/// Reads rows as blocks.
class SplitMxfp4Rows {
 public:
  /// Throws PAGODA_INVALID.
  SplitMxfp4Rows(const SplitMxfp4& source, const std::string& file, uint64_t offset, int32_t cols);

  /// Rows [row, row + rows) of the part. Throws PAGODA_IO.
  void read(int32_t row, int32_t rows, char* into);

 private:
  const SplitMxfp4 source_;
  const uint64_t offset_;
  const uint64_t blocks_;  // of a row
  const File codesFile_;
  const File scalesFile_;
  std::vector<uint8_t> codes_;
  std::vector<uint8_t> scales_;
};

}  // namespace pagoda
