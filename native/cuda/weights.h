// How weights lie in device memory: row after row. Plain elements are padded with zeros to whole groups of eight, so
// that every row can be read by 16-byte loads and asynchronous copies; quantised rows are the blocks of the file as
// they are.
#pragma once

#include "../block-formats.h"

namespace pagoda::cuda {

constexpr int64_t kPlainGroup = 8;  // elements

constexpr int64_t weightRowBytes(PagodaDtype dtype, int64_t cols) {
  return rowBytes(dtype, isQuantized(dtype) ? cols : (cols + kPlainGroup - 1) / kPlainGroup * kPlainGroup);
}

}  // namespace pagoda::cuda
