// Multi-head latent attention in its absorbed form, for any number of new tokens: W_UK moves to the query and W_UV
// behind the sum, so that all heads meet the rows of the cache as they are, read by the attention kernel page by page.
#include "attention.cuh"
#include "product.cuh"

namespace pagoda::cuda {
namespace {

/// Copies the rope part of each head's query behind its part in the latent space.
struct RopeCopy {
  PagodaTensor queryRope;  // [T, heads * ropeDim]
  float* query;            // [T, heads * headDim]
  int32_t heads;
  int32_t headDim;
  int32_t latentDim;
};

__global__ void __launch_bounds__(kRowThreads) copyRopeKernel(const RopeCopy c) {
  const int ropeDim = c.headDim - c.latentDim;
  const float* from = rowOf(c.queryRope, blockIdx.x);
  float* to = c.query + static_cast<int64_t>(blockIdx.x) * c.heads * c.headDim;
  forColumns(c.heads * ropeDim,
             [&](int i) { to[static_cast<int64_t>(i / ropeDim) * c.headDim + c.latentDim + i % ropeDim] = from[i]; });
}

/// out[t][h] = x[t][h] * weight[h]^T, the rows of `weight` being cut into as many matrices as there are heads.
PagodaStatus multiplyHeads(PagodaDevice* device, const PagodaWeight& weight, int32_t heads, const PagodaTensor& x,
                           const PagodaTensor& out, int32_t headOutputs, PagodaError* error) {
  const Product product = {
      .weight = static_cast<const uint8_t*>(weight.data),
      .dtype = weight.dtype,
      .rowBytes = weightRowBytes(weight.dtype, weight.cols),
      .bias = nullptr,
      .x = static_cast<const float*>(x.data),
      .xStride = x.rowStride,
      .xRows = x.rows,
      .out = static_cast<float*>(out.data),
      .outStride = out.rowStride,
      .inputs = weight.cols,
      .outputs = weight.rows / heads,
      .slots = x.rows,
      .tileRows = chooseTileRows(weight.dtype, x.rows, 1),
      .rowOfSlot = nullptr,
      .tiles = nullptr,
      .numTiles = nullptr,
      .maxTiles = 0,
      .matrices = heads,
      .heads = heads,
      .headOutputs = headOutputs,
  };
  return multiply(device, product, "mlaAttention", error);
}

PagodaStatus validate(const PagodaMlaAttention& op, PagodaError* error) {
  if (const PagodaStatus status = requireF32(error, op.out, op.query, op.queryRope)) return status;
  const PagodaKvCache& cache = op.cache;
  if (cache.latentDim <= 0 || cache.latentDim >= cache.headDim)
    return fail(PAGODA_INVALID, "Expected a latent cache", error);
  const bool fits = op.numHeads > 0 && op.keyUp.rows == op.numHeads * cache.latentDim &&
                    op.query.width == op.numHeads * op.keyUp.cols && op.valueUp.cols == cache.latentDim &&
                    op.out.width == op.valueUp.rows && op.valueUp.rows % op.numHeads == 0 &&
                    op.queryRope.width == op.numHeads * (cache.headDim - cache.latentDim);
  return fits ? PAGODA_OK : fail(PAGODA_INVALID, "mlaAttention: the weights do not fit the tensors", error);
}

}  // namespace

PagodaStatus mlaAttention(PagodaDevice* device, const PagodaMlaAttention* op, PagodaError* error) {
  if (const PagodaStatus status = validate(*op, error)) return status;
  if (op->out.rows == 0) return PAGODA_OK;
  const int32_t rows = op->out.rows, headDim = op->cache.headDim, latentDim = op->cache.latentDim;
  const int32_t queryWidth = op->numHeads * headDim, latentWidth = op->numHeads * latentDim;
  void* memory = nullptr;
  const uint64_t bytes = static_cast<uint64_t>(rows) * (queryWidth + latentWidth) * sizeof(float);
  if (const PagodaStatus status = device->latents.reserve(device->stream, bytes, &memory, error)) return status;
  auto* queries = static_cast<float*>(memory);
  float* latents = queries + static_cast<int64_t>(rows) * queryWidth;
  const PagodaTensor query = {queries, rows, queryWidth, queryWidth, PAGODA_F32};
  const PagodaTensor latent = {latents, rows, latentWidth, latentWidth, PAGODA_F32};
  if (const PagodaStatus status = multiplyHeads(device, op->keyUp, op->numHeads, op->query, query, headDim, error))
    return status;
  const RopeCopy copy = {op->queryRope, queries, op->numHeads, headDim, latentDim};
  if (const PagodaStatus status =
          launchRows(device, copyRopeKernel, copy, rows, op->queryRope.width, "mlaAttention", error))
    return status;
  const PagodaAttention attention = {latent, query, op->cache, op->batch, op->numHeads, op->scale, 0, 0.0f, {}};
  if (const PagodaStatus status = attend(device, attention, error)) return status;
  const int32_t valueDim = op->valueUp.rows / op->numHeads;
  return multiplyHeads(device, op->valueUp, op->numHeads, latent, op->out, valueDim, error);
}

}  // namespace pagoda::cuda
