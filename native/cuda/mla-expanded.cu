// Latent attention in its expanded form, a request at a time. As many positions as the workspace holds become keys and
// values, in bf16; all new tokens attend to them before the next ones are made. Rope keys stay in the cache. States
// are merged at multiples of kLongSplit, in order: a token's bits depend on its position alone, not on the workspace or
// on how its request is cut into steps of this form.
#include "mla-attention.cuh"
#include "product.cuh"

namespace pagoda::cuda {
namespace {

/// Latents of positions from `first` on become rows of f32.
struct LatentGather {
  PagodaKvCache cache;
  const int32_t* blocks;  // of the request
  int32_t first;
  float* out;  // [positions, latentDim]
};

__global__ void __launch_bounds__(kRowThreads) gatherLatentsKernel(const LatentGather g) {
  const int64_t slot = slotOf(g.blocks, g.first + static_cast<int>(blockIdx.x), g.cache.blockSize);
  const KvVector from = kvVector(g.cache, KvLayout(g.cache), slot, 0, 0);
  float* to = g.out + static_cast<int64_t>(blockIdx.x) * g.cache.latentDim;
  forColumns(g.cache.latentDim, [&](int i) { to[i] = kvElement<PAGODA_BF16>(from, i, 1.0f); });
}

/// What one round of positions needs, in parts aligned to 256 bytes.
struct Workspace {
  int32_t positions;
  uint64_t keys, values, latents, states;  // bytes

  Workspace(const PagodaDevice& device, const PagodaMlaAttention& op, const RequestTokens& request) {
    const uint64_t keyBytes = sizeof(uint16_t) * op.keyExpand.rows, valueBytes = sizeof(uint16_t) * op.valueUp.rows;
    const auto fitting = static_cast<int64_t>(device.maxExpandedBytes / (keyBytes + valueBytes));
    const int64_t whole = fitting < kLongSplit ? kLongSplit : fitting / kLongSplit * kLongSplit;
    positions = static_cast<int32_t>(whole < request.end ? whole : request.end);
    keys = roundUp(positions * keyBytes, 256);
    values = roundUp(positions * valueBytes, 256);
    latents = roundUp(sizeof(float) * positions * static_cast<int64_t>(op.cache.latentDim), 256);
    states = sizeof(SoftmaxState) * request.tokens * static_cast<int64_t>(op.numHeads);
  }
  uint64_t bytes() const { return keys + values + latents + states; }
};

/// out [rows, weight.rows] = x [rows, weight.cols] * weight^T, rounded to bf16.
PagodaStatus expand(PagodaDevice* device, const PagodaWeight& weight, float* x, int32_t rows, void* out,
                    PagodaError* error) {
  const PagodaTensor latents = {x, rows, weight.cols, weight.cols, PAGODA_F32};
  const PagodaTensor rounded = {out, rows, weight.rows, weight.rows, PAGODA_BF16};
  return multiply(device, productOf(weight, latents, rounded), "mlaAttention", error);
}

}  // namespace

bool canExpand(const PagodaMlaAttention& op) {
  constexpr int32_t kMostColumns = 128, kMostRopeColumns = 64;
  const auto fits = [](int32_t columns) { return isWideEnough(columns) && columns <= kMostColumns; };
  const PagodaKvCache& cache = op.cache;
  const int32_t ropeDim = cache.headDim - cache.latentDim;
  return op.keyExpand.data != nullptr && cache.dtype == PAGODA_BF16 && fits(op.query.width / op.numHeads) &&
         fits(op.out.width / op.numHeads) && ropeDim <= kMostRopeColumns && ropeDim % 8 == 0 && cache.headDim % 8 == 0;
}

PagodaStatus attendExpanded(PagodaDevice* device, const PagodaMlaAttention& op, const RequestTokens& request,
                            PagodaError* error) {
  const Workspace workspace(*device, op, request);
  void* memory = nullptr;
  if (const PagodaStatus status = device->latents.reserve(device->stream, workspace.bytes(), &memory, error))
    return status;
  auto* keys = static_cast<uint8_t*>(memory);
  auto* values = keys + workspace.keys;
  auto* latents = reinterpret_cast<float*>(values + workspace.values);
  auto* states = reinterpret_cast<SoftmaxState*>(values + workspace.values + workspace.latents);
  const PagodaKvCache cache = {nullptr, 1, 1, op.numHeads, op.out.width / op.numHeads, PAGODA_BF16, 0};
  PagodaAttention heads = {op.out, op.query, cache, op.batch, op.numHeads, op.scale, 0, 0.0f, {}};
  heads.batch.seqLens += request.request;
  const int32_t* blocks = op.batch.blockTable + static_cast<int64_t>(request.request) * op.batch.maxBlocks;
  for (int32_t first = 0; first < request.end; first += workspace.positions) {
    const int32_t left = request.end - first, count = left < workspace.positions ? left : workspace.positions;
    const LatentGather gather = {op.cache, blocks, first, latents};
    if (const PagodaStatus status =
            launchRows(device, gatherLatentsKernel, gather, count, op.cache.latentDim, "mlaAttention", error))
      return status;
    if (const PagodaStatus status = expand(device, op.keyExpand, latents, count, keys, error)) return status;
    if (const PagodaStatus status = expand(device, op.valueUp, latents, count, values, error)) return status;
    const ExpandedKeys expanded = {reinterpret_cast<uint16_t*>(keys), reinterpret_cast<uint16_t*>(values), first,
                                   first + count};
    const bool hasBoxes = device->tensorMapEncoder != nullptr && op.cache.blockSize % 8 == 0;
    const auto attend = hasBoxes ? attendExpandedKeysByWgmma : attendExpandedKeysByMma;
    if (const PagodaStatus status = attend(device, {heads, op, request, expanded, states}, error)) return status;
  }
  return PAGODA_OK;
}

}  // namespace pagoda::cuda
