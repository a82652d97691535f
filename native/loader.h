// Reads weights from files into device memory: one thread reads bounded chunks of rows ahead while the device packs.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "group-quantized.h"
#include "mxfp4.h"
#include "runner.h"
#include "strided.h"

namespace pagoda {

/// Rows [rowStart, rowStart + rows) of a weight, row-major, `offset` bytes into a file.
struct WeightPart {
  std::string file;
  uint64_t offset;
  PagodaDtype dtype;
  int32_t rowStart;
  int32_t rows;
  /// Where the file holds codes, which become blocks of `dtype`.
  std::optional<GroupQuantized> quantized = {};
  /// Where the elements do not lie one behind the other. Rows of blocks can be read transposed, as f32: `row` is 1 and
  /// `col` the length of the rows in the file.
  std::optional<Strides> strides = {};
  /// Where codes and exponents of MXFP4 are apart.
  std::optional<SplitMxfp4> mxfp4 = {};
};

/// A weight of the plan and the parts that fill it.
struct WeightSource {
  int32_t index;
  std::vector<WeightPart> parts;
};

/// Reads and packs the weights, reading ahead from one into the next. Plain reads, no mapping: a file that shrinks
/// meanwhile gives PAGODA_IO, not a SIGBUS. Gives up with PAGODA_IO soon after `cancelled` is set.
void loadWeights(Runner& runner, const std::vector<WeightSource>& sources, const std::atomic<bool>& cancelled);

/// Packs float32 [rows, cols]. Throws PAGODA_INVALID where the length does not fit.
void setWeight(Runner& runner, int32_t index, const std::vector<float>& data);

}  // namespace pagoda
