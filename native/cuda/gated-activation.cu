// out = activation(gate) * up
#include "activations.cuh"

namespace pagoda::cuda {

static __global__ void gatedActivationKernel(const PagodaGatedActivation op) {
  const float* gate = rowOf(op.gate, blockIdx.x);
  const float* up = rowOf(op.up, blockIdx.x);
  float* out = rowOf(op.out, blockIdx.x);
  forColumns(op.out.width, [&](int i) { out[i] = activate(op.activation, gate[i], up[i]); });
}

PagodaStatus gatedActivation(PagodaDevice* device, const PagodaGatedActivation* op, PagodaError* error) {
  if (const PagodaStatus status = requireF32(error, op->out, op->gate, op->up)) return status;
  return launchRows(device, gatedActivationKernel, *op, op->out.rows, op->out.width, "gatedActivation", error);
}

}  // namespace pagoda::cuda
