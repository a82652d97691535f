// The product of rows with a matrix, for linear and for experts, whose matrices lie one after the other in one weight.
//
// An output is the same bits whatever rows it is computed with: each kernel sums over the columns in an order that
// depends on the weight alone.
#pragma once

#include "dequantize.cuh"

namespace pagoda::cuda {

/// Slots [first, first + count) meet the matrix of one expert.
struct RowTile {
  int32_t expert;
  int32_t first;
  int32_t count;
};

/// out[slot] = x[row of slot] * weight[expert of slot]^T + bias[expert of slot].
///
/// With `heads` > 1 all slots meet all experts, which are then heads: head h has the columns from h * inputs on of x,
/// and those from h * headOutputs on of out.
struct Product {
  const uint8_t* weight;  // [experts * outputs, inputs]
  PagodaDtype dtype;      // of `weight`
  int64_t rowBytes;       // of `weight`
  const float* bias;      // [experts * outputs], or NULL
  const float* x;         // [xRows, inputs]
  int64_t xStride;
  int32_t xRows;
  void* out;  // of outDtype
  int64_t outStride;
  int32_t inputs;
  int32_t outputs;
  int32_t slots;
  int32_t tileRows;
  const int32_t* rowOfSlot;  // NULL: the slot itself
  const RowTile* tiles;      // NULL: all slots meet expert 0
  const int32_t* numTiles;   // of `tiles`, which are at most `maxTiles`
  int32_t maxTiles;
  int32_t matrices = 1;  // that `weight` holds: experts or heads
  int32_t heads = 1;
  int32_t headOutputs = 0;
  PagodaDtype outDtype = PAGODA_F32;  // or PAGODA_BF16

  __device__ __forceinline__ RowTile tile(int index, int rows) const {
    if (tiles == nullptr) return {static_cast<int32_t>(blockIdx.z), index * rows, min(rows, slots - index * rows)};
    return index < *numTiles ? tiles[index] : RowTile{0, 0, 0};
  }

  __device__ __forceinline__ const float* row(int expert, int slot) const {
    const int64_t column = heads > 1 ? static_cast<int64_t>(expert) * inputs : 0;
    return x + (rowOfSlot == nullptr ? slot : rowOfSlot[slot]) * xStride + column;
  }

  __device__ __forceinline__ void write(int expert, int slot, int output, float sum) const {
    const float shift = bias == nullptr ? 0.0f : bias[static_cast<int64_t>(expert) * outputs + output];
    const int64_t column = heads > 1 ? static_cast<int64_t>(expert) * headOutputs : 0;
    const int64_t at = slot * outStride + column + output;
    if (outDtype == PAGODA_BF16) return store(static_cast<uint16_t*>(out) + at, sum + shift);
    store(static_cast<float*>(out) + at, sum + shift);
  }

  static __device__ __forceinline__ void store(float* to, float value) { *to = value; }
  static __device__ __forceinline__ void store(uint16_t* to, float value) { *to = toBf16(value); }
};

/// Rows of a tile, for so many slots that are spread over `experts` matrices.
int32_t chooseTileRows(PagodaDtype dtype, int64_t slots, int32_t experts);

/// out [rows, weight.rows] = x [rows, weight.cols] * weight^T, without bias.
inline Product productOf(const PagodaWeight& weight, const PagodaTensor& x, const PagodaTensor& out) {
  return {
      .weight = static_cast<const uint8_t*>(weight.data),
      .dtype = weight.dtype,
      .rowBytes = weightRowBytes(weight.dtype, weight.cols),
      .bias = nullptr,
      .x = static_cast<const float*>(x.data),
      .xStride = x.rowStride,
      .xRows = x.rows,
      .out = out.data,
      .outStride = out.rowStride,
      .inputs = weight.cols,
      .outputs = weight.rows,
      .slots = x.rows,
      .tileRows = chooseTileRows(weight.dtype, x.rows, 1),
      .rowOfSlot = nullptr,
      .tiles = nullptr,
      .numTiles = nullptr,
      .maxTiles = 0,
      .outDtype = out.dtype,
  };
}

/// Queues the product; `slots` > 0.
PagodaStatus multiply(PagodaDevice* device, const Product& product, const char* name, PagodaError* error);

/// The same on the tensor cores, for all weights but f32, which are read as bf16; the second for bf16 weights where the
/// device has a tensorMapEncoder. Their bits may differ.
PagodaStatus multiplyMma(PagodaDevice* device, const Product& product, const char* name, PagodaError* error);
PagodaStatus multiplyWgmma(PagodaDevice* device, const Product& product, const char* name, PagodaError* error);

/// Rows of x in bf16, one for each slot: each head's columns, padded with zeros to `headStride`, a multiple
/// of 8.
struct RoundedRows {
  const float* x;
  int64_t xStride;
  const int32_t* rowOfSlot;  // NULL: the slot itself
  uint16_t* out;             // [slots, heads, headStride]
  int64_t headStride;
  int32_t inputs;  // of a head
  int32_t heads;
  int32_t* counters = nullptr;  // [numCounters], set to 0 at the same time
  int32_t numCounters = 0;
};

/// Queues the rounding of `count` slots; `count` > 0.
PagodaStatus roundRows(PagodaDevice* device, const RoundedRows& rows, int32_t count, const char* name,
                       PagodaError* error);

}  // namespace pagoda::cuda
