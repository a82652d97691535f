// out = x * weight^T + bias
#include "product.cuh"

namespace pagoda::cuda {

PagodaStatus linear(PagodaDevice* device, const PagodaLinear* op, PagodaError* error) {
  if (const PagodaStatus status = requireF32(error, op->out, op->x)) return status;
  if (op->x.width != op->weight.cols || op->out.width != op->weight.rows || op->x.rows != op->out.rows)
    return fail(PAGODA_INVALID, "linear: the weight does not fit the tensors", error);
  if (op->out.rows == 0) return PAGODA_OK;
  Product product = productOf(op->weight, op->x, op->out);
  product.bias = static_cast<const float*>(op->bias.data);
  return multiply(device, product, "linear", error);
}

}  // namespace pagoda::cuda
