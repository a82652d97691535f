// Multi-head latent attention, in its absorbed form for any number of new tokens: the attention kernel reads the rows
// of the cache page by page. Requests with many new tokens may be computed in the expanded form (mla-expanded.cu).
#include "mla-attention.cuh"
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
  Product product = productOf(weight, x, out);
  product.outputs = weight.rows / heads;
  product.matrices = product.heads = heads;
  product.headOutputs = headOutputs;
  return multiply(device, product, "mlaAttention", error);
}

PagodaStatus validate(const PagodaMlaAttention& op, PagodaError* error) {
  if (const PagodaStatus status = requireF32(error, op.out, op.query, op.queryRope)) return status;
  const PagodaKvCache& cache = op.cache;
  if (cache.latentDim <= 0 || cache.latentDim >= cache.headDim)
    return fail(PAGODA_INVALID, "Expected a latent cache", error);
  const bool fits =
      op.numHeads > 0 && op.keyUp.rows == op.numHeads * cache.latentDim &&
      op.query.width == op.numHeads * op.keyUp.cols && op.valueUp.cols == cache.latentDim &&
      op.out.width == op.valueUp.rows && op.valueUp.rows % op.numHeads == 0 &&
      op.queryRope.width == op.numHeads * (cache.headDim - cache.latentDim) &&
      (op.keyExpand.data == nullptr || (op.keyExpand.rows == op.query.width && op.keyExpand.cols == cache.latentDim));
  return fits ? PAGODA_OK : fail(PAGODA_INVALID, "mlaAttention: the weights do not fit the tensors", error);
}

/// The starts of requests behind others, counted from the first of them.
struct Starts {
  const int32_t* from;
  int32_t* to;
  int32_t count;
};

__global__ void __launch_bounds__(kRowThreads) rebaseStartsKernel(const Starts s) {
  for (int i = threadIdx.x; i < s.count; i += kRowThreads) s.to[i] = s.from[i] - s.from[0];
}

/// All requests of `op`, whose starts in the batch count from 0 on unless `isPart`.
PagodaStatus attendAbsorbed(PagodaDevice* device, const PagodaMlaAttention& op, bool isPart, PagodaError* error) {
  const int32_t rows = op.out.rows, headDim = op.cache.headDim, latentDim = op.cache.latentDim;
  const int32_t queryWidth = op.numHeads * headDim, latentWidth = op.numHeads * latentDim;
  const int32_t starts = isPart ? op.batch.numRequests + 1 : 0;
  void* memory = nullptr;
  const uint64_t bytes =
      static_cast<uint64_t>(rows) * (queryWidth + latentWidth) * sizeof(float) + starts * sizeof(int32_t);
  if (const PagodaStatus status = device->latents.reserve(device->stream, bytes, &memory, error)) return status;
  auto* queries = static_cast<float*>(memory);
  float* latents = queries + static_cast<int64_t>(rows) * queryWidth;
  const PagodaTensor query = {queries, rows, queryWidth, queryWidth, PAGODA_F32};
  const PagodaTensor latent = {latents, rows, latentWidth, latentWidth, PAGODA_F32};
  if (const PagodaStatus status = multiplyHeads(device, op.keyUp, op.numHeads, op.query, query, headDim, error))
    return status;
  const RopeCopy copy = {op.queryRope, queries, op.numHeads, headDim, latentDim};
  if (const PagodaStatus status =
          launchRows(device, copyRopeKernel, copy, rows, op.queryRope.width, "mlaAttention", error))
    return status;
  PagodaAttention attention = {latent, query, op.cache, op.batch, op.numHeads, op.scale, 0, 0.0f, {}};
  if (isPart) {
    const Starts rebased = {op.batch.queryStartLoc, reinterpret_cast<int32_t*>(latents + rows * int64_t{latentWidth}),
                            starts};
    const LaunchShape shape = {dim3(1), dim3(kRowThreads)};
    if (const PagodaStatus status =
            check(launch(rebaseStartsKernel, shape, device->stream, rebased), "mlaAttention", error))
      return status;
    attention.batch.queryStartLoc = rebased.to;
  }
  if (const PagodaStatus status = attend(device, attention, error)) return status;
  const int32_t valueDim = op.valueUp.rows / op.numHeads;
  return multiplyHeads(device, op.valueUp, op.numHeads, latent, op.out, valueDim, error);
}

PagodaTensor rowsOf(const PagodaTensor& tensor, int32_t first, int32_t count) {
  PagodaTensor rows = tensor;
  rows.data = static_cast<float*>(tensor.data) + first * tensor.rowStride;
  rows.rows = count;
  return rows;
}

RequestTokens tokensOf(const PagodaBatch& batch, int32_t request) {
  const int32_t first = batch.hostQueryStartLoc[request], end = batch.hostQueryStartLoc[request + 1];
  return {request, first, end - first, batch.hostSeqLens[request]};
}

/// Requests [first, end) alone; starts in the batch still count from the first request of all.
PagodaMlaAttention partOf(const PagodaMlaAttention& op, int32_t first, int32_t end) {
  const int32_t firstToken = tokensOf(op.batch, first).firstToken;
  const int32_t tokens = op.batch.hostQueryStartLoc[end] - firstToken;
  PagodaMlaAttention part = op;
  part.out = rowsOf(op.out, firstToken, tokens);
  part.query = rowsOf(op.query, firstToken, tokens);
  part.queryRope = rowsOf(op.queryRope, firstToken, tokens);
  part.batch.numRequests = end - first;
  part.batch.numTokens = tokens;
  part.batch.queryStartLoc += first;
  part.batch.seqLens += first;
  part.batch.blockTable += static_cast<int64_t>(first) * op.batch.maxBlocks;
  part.batch.hostQueryStartLoc = part.batch.hostSeqLens = nullptr;
  part.batch.maxQueryLen = part.batch.maxSeqLen = 0;
  for (int32_t r = first; r < end; ++r) {
    const RequestTokens request = tokensOf(op.batch, r);
    if (request.tokens > part.batch.maxQueryLen) part.batch.maxQueryLen = request.tokens;
    if (request.end > part.batch.maxSeqLen) part.batch.maxSeqLen = request.end;
  }
  return part;
}

/// Single tokens are never expanded, since steps of such tokens may be recorded.
bool isExpanded(const PagodaMlaAttention& op, int32_t request) {
  const int32_t tokens = tokensOf(op.batch, request).tokens;
  return tokens > 1 && tokens >= op.expandFrom;
}

/// Requests that are expanded, each by itself, and those between them.
PagodaStatus attendParts(PagodaDevice* device, const PagodaMlaAttention& op, PagodaError* error) {
  for (int32_t first = 0, end = 0; first < op.batch.numRequests; first = end) {
    end = first + 1;
    PagodaStatus status = PAGODA_OK;
    if (isExpanded(op, first)) {
      status = attendExpanded(device, op, tokensOf(op.batch, first), error);
    } else {
      while (end < op.batch.numRequests && !isExpanded(op, end)) ++end;
      const PagodaMlaAttention part = partOf(op, first, end);
      if (part.out.rows > 0) status = attendAbsorbed(device, part, first > 0, error);
    }
    if (status != PAGODA_OK) return status;
  }
  return PAGODA_OK;
}

}  // namespace

PagodaStatus mlaAttention(PagodaDevice* device, const PagodaMlaAttention* op, PagodaError* error) {
  if (const PagodaStatus status = validate(*op, error)) return status;
  if (op->out.rows == 0) return PAGODA_OK;
  const bool mayExpand = op->expandFrom > 0 && op->batch.maxQueryLen >= op->expandFrom &&
                         op->batch.hostQueryStartLoc != nullptr && canExpand(*op);
  return mayExpand ? attendParts(device, *op, error) : attendAbsorbed(device, *op, false, error);
}

}  // namespace pagoda::cuda
