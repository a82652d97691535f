// Cosines and sines of position * frequency[i], the angle rounded to f32.
#include "kernel.cuh"

namespace pagoda::cuda {

static __global__ void ropeTableKernel(const PagodaRopeTable op) {
  const float* frequency = vectorOf(op.frequency);
  const auto position = static_cast<float>(op.positions[blockIdx.x]);
  float* out = rowOf(op.out, blockIdx.x);
  const int half = op.out.width / 2;
  forColumns(half, [&](int i) {
    const float angle = position * frequency[i];
    out[i] = cosf(angle) * op.scaling;
    out[half + i] = sinf(angle) * op.scaling;
  });
}

PagodaStatus ropeTable(PagodaDevice* device, const PagodaRopeTable* op, PagodaError* error) {
  if (const PagodaStatus status = requireF32(error, op->out)) return status;
  if (op->out.width % 2 != 0) return fail(PAGODA_INVALID, "Expected an even `rotaryDim`", error);
  return launchRows(device, ropeTableKernel, *op, op->out.rows, op->out.width / 2, "ropeTable", error);
}

}  // namespace pagoda::cuda
