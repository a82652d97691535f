// out[s] = x[rows[s]]
#include "kernel.cuh"

namespace pagoda::cuda {

static __global__ void takeRowsKernel(const PagodaTakeRows op) {
  const float* x = rowOf(op.x, op.rows[blockIdx.x]);
  float* out = rowOf(op.out, blockIdx.x);
  forColumns(op.out.width, [&](int i) { out[i] = x[i]; });
}

PagodaStatus takeRows(PagodaDevice* device, const PagodaTakeRows* op, PagodaError* error) {
  if (const PagodaStatus status = requireF32(error, op->out, op->x)) return status;
  return launchRows(device, takeRowsKernel, *op, op->out.rows, op->out.width, "takeRows", error);
}

}  // namespace pagoda::cuda
