// out = x * weight^T + bias
#include "product.cuh"

namespace pagoda::cuda {

PagodaStatus linear(PagodaDevice* device, const PagodaLinear* op, PagodaError* error) {
  if (const PagodaStatus status = requireF32(error, op->out, op->x)) return status;
  if (op->x.width != op->weight.cols || op->out.width != op->weight.rows || op->x.rows != op->out.rows)
    return fail(PAGODA_INVALID, "linear: the weight does not fit the tensors", error);
  if (op->out.rows == 0) return PAGODA_OK;
  const Product product = {
      .weight = static_cast<const uint8_t*>(op->weight.data),
      .dtype = op->weight.dtype,
      .rowBytes = weightRowBytes(op->weight.dtype, op->weight.cols),
      .bias = static_cast<const float*>(op->bias.data),
      .x = static_cast<const float*>(op->x.data),
      .xStride = op->x.rowStride,
      .xRows = op->x.rows,
      .out = static_cast<float*>(op->out.data),
      .outStride = op->out.rowStride,
      .inputs = op->weight.cols,
      .outputs = op->weight.rows,
      .slots = op->out.rows,
      .tileRows = chooseTileRows(op->weight.dtype, op->out.rows, 1),
      .rowOfSlot = nullptr,
      .tiles = nullptr,
      .numTiles = nullptr,
      .maxTiles = 0,
  };
  return multiply(device, product, "linear", error);
}

}  // namespace pagoda::cuda
