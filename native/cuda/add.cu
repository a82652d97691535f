// out = a + b
#include "kernel.cuh"

namespace pagoda::cuda {

static __global__ void addKernel(const PagodaAdd op) {
  const float* a = rowOf(op.a, blockIdx.x);
  const float* b = rowOf(op.b, blockIdx.x);
  float* out = rowOf(op.out, blockIdx.x);
  forColumns(op.out.width, [&](int i) { out[i] = a[i] + b[i]; });
}

PagodaStatus add(PagodaDevice* device, const PagodaAdd* op, PagodaError* error) {
  if (const PagodaStatus status = requireF32(error, op->out, op->a, op->b)) return status;
  return launchRows(device, addKernel, *op, op->out.rows, op->out.width, "add", error);
}

}  // namespace pagoda::cuda
