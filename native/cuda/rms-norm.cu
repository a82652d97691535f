// out = x / sqrt(mean(x^2) + eps) * (weight + weightOffset), for each row and each group of groupWidth columns.
#include "device.h"

namespace pagoda::cuda {

namespace {

constexpr int kThreads = 128;
constexpr int kWarp = 32;

struct Parameters {
  float* out;           // [rows, groups * groupWidth]
  const float* x;       // [rows, groups * groupWidth]
  const float* weight;  // [groupWidth]
  int64_t outStride;    // elements
  int64_t xStride;      // elements
  int groupWidth;
  float eps;
  float weightOffset;
};

/// Sum over the block, in an order that depends on nothing but the thread index; every thread gets it.
__device__ float blockSum(float value) {
  __shared__ float partial[kThreads / kWarp];
  for (int offset = kWarp / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  if (threadIdx.x % kWarp == 0) partial[threadIdx.x / kWarp] = value;
  __syncthreads();
  float sum = 0.0f;
  for (int warp = 0; warp < kThreads / kWarp; ++warp) sum += partial[warp];
  return sum;
}

/// One block a (row, group).
__global__ void __launch_bounds__(kThreads) rmsNormKernel(const Parameters p) {
  const int64_t column = static_cast<int64_t>(blockIdx.y) * p.groupWidth;
  const float* x = p.x + blockIdx.x * p.xStride + column;
  float* out = p.out + blockIdx.x * p.outStride + column;
  float squares = 0.0f;
  for (int i = threadIdx.x; i < p.groupWidth; i += kThreads) squares += x[i] * x[i];
  const float scale = rsqrtf(blockSum(squares) / p.groupWidth + p.eps);
  for (int i = threadIdx.x; i < p.groupWidth; i += kThreads) out[i] = x[i] * scale * (p.weight[i] + p.weightOffset);
}

}  // namespace

PagodaStatus rmsNorm(PagodaDevice* device, const PagodaRmsNorm* op, PagodaError* error) {
  if (op->x.dtype != PAGODA_F32 || op->out.dtype != PAGODA_F32)
    return fail(PAGODA_UNSUPPORTED, "rmsNorm takes f32", error);
  if (op->groupWidth <= 0 || op->x.width % op->groupWidth != 0 || op->x.width / op->groupWidth > 65535)
    return fail(PAGODA_INVALID, "rmsNorm: groupWidth must divide the width", error);
  if (op->x.rows == 0) return PAGODA_OK;
  const Parameters parameters = {static_cast<float*>(op->out.data),
                                 static_cast<const float*>(op->x.data),
                                 static_cast<const float*>(op->weight.data),
                                 op->out.rowStride,
                                 op->x.rowStride,
                                 op->groupWidth,
                                 op->eps,
                                 op->weightOffset};
  const dim3 grid(op->x.rows, op->x.width / op->groupWidth);
  rmsNormKernel<<<grid, kThreads, 0, device->stream>>>(parameters);
  return check(cudaGetLastError(), "rmsNorm", error);
}

}  // namespace pagoda::cuda
