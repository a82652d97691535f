// How weights lie in device memory: row after row. Plain elements are padded with zeros to whole 16 bytes, so that
// every row can be read by 16-byte loads and asynchronous copies; quantised rows are the blocks of the file as they
// are.
#pragma once

#include "../block-formats.h"

namespace pagoda::cuda {

constexpr int64_t kRowAlignment = 16;

constexpr int64_t weightRowBytes(PagodaDtype dtype, int64_t cols) {
  const int64_t bytes = rowBytes(dtype, cols);
  return isQuantized(dtype) ? bytes : (bytes + kRowAlignment - 1) / kRowAlignment * kRowAlignment;
}

}  // namespace pagoda::cuda
