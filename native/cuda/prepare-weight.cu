// Packs weights: converts rows on the host, then copies them. See weights.h for the layout.
#include <algorithm>
#include <cstring>
#include <new>
#include <vector>

#include "../cpu/bf16.h"
#include "../cpu/block-codec.h"
#include "../cpu/half.h"
#include "device.h"
#include "weights.h"

// From native/cpu/quantize-blocks.cc, which this plug-in is linked with: all backends choose the same codes.
namespace pagoda::base {
void quantizeBlock(PagodaDtype dtype, const float* values, void* block);
}

namespace pagoda::cuda {
namespace {

constexpr int64_t kStagingBytes = int64_t{4} << 20;

bool canConvert(PagodaDtype to, PagodaDtype from) {
  if (blockFormat(to).bytes == 0 || blockFormat(from).bytes == 0) return false;
  return to == from || !isQuantized(to) || canQuantize(to);
}

PagodaStatus validate(const PagodaWeight& weight, PagodaError* error) {
  constexpr int32_t kMaxSide = 1 << 30;
  const BlockFormat format = blockFormat(weight.dtype);
  if (format.bytes == 0)
    return fail(PAGODA_UNSUPPORTED, "The CUDA backend keeps weights as f32, bf16, f16 or quantised", error);
  if (weight.rows < 1 || weight.cols < 1 || weight.rows > kMaxSide || weight.cols > kMaxSide)
    return fail(PAGODA_INVALID, "Expected 1 to 2^30 rows and columns for `weight`", error);
  if (weight.cols % format.columns != 0)
    return fail(PAGODA_INVALID, "Expected columns in whole blocks for a quantised weight", error);
  if (weight.kind == PAGODA_VECTOR && (weight.dtype != PAGODA_F32 || weight.rows != 1))
    return fail(PAGODA_UNSUPPORTED, "Vectors are one row of f32", error);
  return PAGODA_OK;
}

float elementOf(PagodaDtype dtype, const uint8_t* row, int64_t index) {
  if (dtype == PAGODA_F32) {
    float value;
    std::memcpy(&value, row + 4 * index, sizeof value);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, row + 2 * index, sizeof bits);
  return dtype == PAGODA_BF16 ? bf16ToFloat(bits) : halfToFloat(bits);
}

void readFloats(PagodaDtype dtype, const uint8_t* row, int64_t cols, float* values) {
  const BlockFormat format = blockFormat(dtype);
  if (!isQuantized(dtype)) {
    for (int64_t i = 0; i < cols; ++i) values[i] = elementOf(dtype, row, i);
    return;
  }
  for (int64_t i = 0; i < cols; i += format.columns, row += format.bytes) dequantizeBlock(dtype, row, values + i);
}

void writeFloats(PagodaDtype dtype, const float* values, int64_t cols, uint8_t* row) {
  const BlockFormat format = blockFormat(dtype);
  if (dtype == PAGODA_F32) {
    std::memcpy(row, values, sizeof(float) * cols);
  } else if (!isQuantized(dtype)) {
    for (int64_t i = 0; i < cols; ++i) {
      const uint16_t bits = dtype == PAGODA_BF16 ? floatToBf16(values[i]) : floatToHalf(values[i]);
      std::memcpy(row + 2 * i, &bits, sizeof bits);
    }
  } else {
    for (int64_t i = 0; i < cols; i += format.columns, row += format.bytes) base::quantizeBlock(dtype, values + i, row);
  }
}

/// Rows as they lie in device memory, padding included.
void convertRows(const PagodaWeight& weight, PagodaDtype from, const uint8_t* source, int64_t rows,
                 std::vector<float>& values, uint8_t* to) {
  const int64_t bytes = rowBytes(weight.dtype, weight.cols), stride = weightRowBytes(weight.dtype, weight.cols);
  const int64_t sourceBytes = rowBytes(from, weight.cols);
  for (int64_t row = 0; row < rows; ++row, source += sourceBytes, to += stride) {
    if (from == weight.dtype) {
      std::memcpy(to, source, bytes);
    } else {
      readFloats(from, source, weight.cols, values.data());
      writeFloats(weight.dtype, values.data(), weight.cols, to);
    }
    std::memset(to + bytes, 0, stride - bytes);
  }
}

// From pageable memory: the runtime has read a part when its copy returns, so the next part may reuse the staging
// memory.
PagodaStatus copyRows(PagodaDevice* device, const PagodaWeight& weight, int64_t rowStart, int64_t rows,
                      const uint8_t* source, PagodaDtype from, PagodaError* error) {
  const int64_t stride = weightRowBytes(weight.dtype, weight.cols), sourceBytes = rowBytes(from, weight.cols);
  const int64_t step = std::clamp<int64_t>(kStagingBytes / stride, 1, rows);
  std::vector<uint8_t> staging(step * stride);
  std::vector<float> values(weight.cols);
  for (int64_t row = 0; row < rows; row += step) {
    const int64_t count = std::min(step, rows - row);
    convertRows(weight, from, source + row * sourceBytes, count, values, staging.data());
    const cudaError_t result = cudaMemcpyAsync(static_cast<uint8_t*>(weight.data) + (rowStart + row) * stride,
                                               staging.data(), count * stride, cudaMemcpyHostToDevice, device->stream);
    if (const PagodaStatus status = check(result, "prepareWeight", error)) return status;
  }
  return PAGODA_OK;
}

}  // namespace

PagodaStatus weightBytes(PagodaDevice*, const PagodaWeight* weight, uint64_t* bytes, PagodaError* error) {
  if (const PagodaStatus status = validate(*weight, error)) return status;
  *bytes = static_cast<uint64_t>(weight->rows) * weightRowBytes(weight->dtype, weight->cols);
  return PAGODA_OK;
}

PagodaStatus prepareWeight(PagodaDevice* device, const PagodaWeight* weight, int32_t rowStart, int32_t rows,
                           const void* source, PagodaDtype sourceDtype, PagodaError* error) {
  if (const PagodaStatus status = validate(*weight, error)) return status;
  if (weight->data == nullptr || source == nullptr)
    return fail(PAGODA_INVALID, "Expected addresses for `weight` and `source` but received NULL", error);
  if (rowStart < 0 || rows < 0 || rows > weight->rows - rowStart)
    return fail(PAGODA_INVALID, "Expected rows within those of the weight", error);
  if (!canConvert(weight->dtype, sourceDtype))
    return fail(PAGODA_UNSUPPORTED, "The source's dtype cannot become the weight's", error);
  if (weight->cols % blockFormat(sourceDtype).columns != 0)
    return fail(PAGODA_INVALID, "Expected columns in whole blocks of the source's dtype", error);
  if (rows == 0) return PAGODA_OK;
  try {
    return copyRows(device, *weight, rowStart, rows, static_cast<const uint8_t*>(source), sourceDtype, error);
  } catch (const std::bad_alloc&) {
    return fail(PAGODA_OUT_OF_MEMORY, "Out of host memory", error);
  }
}

}  // namespace pagoda::cuda
