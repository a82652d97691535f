// out = x / sqrt(mean(x^2) + eps) * (weight + weightOffset), for each row and each group of groupWidth columns.
#include "kernel.cuh"

namespace pagoda::cuda {
namespace {

constexpr int kThreads = 128;

struct Shared {
  float partial[kThreads / kWarp];
};

/// One block a row and group; blocks of the second dimension take several groups where there are very many.
__global__ void __launch_bounds__(kThreads) rmsNormKernel(const PagodaRmsNorm op) {
  Shared& shared = sharedMemory<Shared>();
  const float* weight = vectorOf(op.weight);
  for (int group = blockIdx.y; group < op.x.width / op.groupWidth; group += gridDim.y) {
    const float* x = rowOf(op.x, blockIdx.x) + static_cast<int64_t>(group) * op.groupWidth;
    float* out = rowOf(op.out, blockIdx.x) + static_cast<int64_t>(group) * op.groupWidth;
    float squares = 0.0f;
    for (int i = threadIdx.x; i < op.groupWidth; i += kThreads) squares = fmaf(x[i], x[i], squares);
    squares = blockReduce(squares, shared.partial, [](float a, float b) { return a + b; });
    const float scale = 1.0f / sqrtf(squares / op.groupWidth + op.eps);
    for (int i = threadIdx.x; i < op.groupWidth; i += kThreads) out[i] = x[i] * scale * (weight[i] + op.weightOffset);
  }
}

}  // namespace

PagodaStatus rmsNorm(PagodaDevice* device, const PagodaRmsNorm* op, PagodaError* error) {
  if (const PagodaStatus status = requireF32(error, op->out, op->x)) return status;
  if (op->groupWidth <= 0 || op->x.width % op->groupWidth != 0)
    return fail(PAGODA_INVALID, "Expected a `groupWidth` that divides the width", error);
  if (op->x.rows == 0) return PAGODA_OK;
  const int groups = op->x.width / op->groupWidth;
  const LaunchShape shape = {dim3(op->x.rows, groups < 65535 ? groups : 65535), dim3(kThreads), sizeof(Shared)};
  return check(launch(rmsNormKernel, shape, device->stream, *op), "rmsNorm", error);
}

}  // namespace pagoda::cuda
