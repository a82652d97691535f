// Attention of one request to keys and values that were made of its latents, on GPUs of compute capability 9.0: as
// prefill of attention-wgmma.cu, with keys of up to 128 + 64 columns and values of up to 128. The first columns of a
// key come from the workspace, 128 positions in one box, the rope part out of the pages of the latent cache, where all
// heads have the same. Sums of rows that more keys follow wait in the result, their states in device memory.
#include "attention-consumers.cuh"
#include "mla-attention.cuh"

namespace pagoda::cuda {
namespace {

using S = Shape<192, 128, 2, 2>;
constexpr int kTileRows = 2 * kWarpgroupRows;
constexpr int kNopePanels = 2;  // of a key; the rope part is the third one
static_assert(fits<S>());

struct Parameters {
  TensorMap keys;      // [positions, heads, nopeDim] from `range.first` on
  TensorMap values;    // [positions, heads, valueDim]
  TensorMap rows;      // of the cache
  PagodaAttention op;  // as if its cache had a KV head of valueDim columns for each query head
  PagodaTensor queryRope;
  RequestTokens request;
  KeyRange range;
  int32_t nopeDim, ropeDim, latentDim;
  int32_t blockSize;
  int32_t numRows;      // of the cache
  int32_t ropeBoxKeys;  // that one copy takes
  int32_t boxKeys;      // 1: no V lies behind the end of the request
  const int32_t* blocks;
  SoftmaxState* states;  // [tokens, heads]
};

/// Where in the map of the cache the box of keys from `position` on begins; behind all rows, which gives zeros, where
/// none is seen.
__device__ __forceinline__ int rowOfBox(const Parameters& p, const GroupTile& work, int position) {
  if (position >= work.keys.end) return p.numRows;
  return p.blocks[position / p.blockSize] * p.blockSize + position % p.blockSize;
}

/// Queues K and V of these keys, as far ahead as there are stages. Lanes have a box each: the first half of them of the
/// rope keys.
__device__ void produce(Shared<S>& shared, const Parameters& p, const GroupTile& work, const KeyRange& range) {
  constexpr int kRopeLanes = 16;  // and a box has at least 8 keys
  static_assert(kRopeLanes * 8 == S::kKeys);
  const int ropeKey = laneOf() * p.ropeBoxKeys, panel = laneOf() - kRopeLanes;
  Rings<S> rings;
  for (int first = range.first; first < range.end; first += S::kKeys) {
    const int row = first - p.range.first;
    const int ropeRow = ropeKey < S::kKeys ? rowOfBox(p, work, first + ropeKey) : 0;
    shared.keyChannel.waitUntilEmpty(rings.keys);
    auto& keys = shared.keys[rings.keys.stage];
    PhaseBarrier& keysAreThere = shared.keyChannel.full[rings.keys.stage];
    if (laneOf() == 0) arriveAndExpect(keysAreThere, sizeof keys);
    __syncwarp();
    if (ropeKey < S::kKeys) copyBox(keys[kNopePanels][ropeKey], p.rows, keysAreThere, p.latentDim, 0, ropeRow);
    if (panel >= 0 && panel < kNopePanels)
      copyBox(keys[panel], p.keys, keysAreThere, kTileColumns * panel, work.kvHead, row);
    rings.keys.next();
    shared.valueChannel.waitUntilEmpty(rings.values);
    auto& values = shared.values[rings.values.stage];
    PhaseBarrier& valuesAreThere = shared.valueChannel.full[rings.values.stage];
    if (laneOf() == 0) arriveAndExpect(valuesAreThere, sizeof values);
    __syncwarp();
    if (laneOf() < S::kValuePanels)
      copyBox(values[laneOf()], p.values, valuesAreThere, kTileColumns * laneOf(), work.kvHead, row);
    rings.values.next();
  }
}

/// Columns [8 chunk, 8 chunk + 8) of a query: its part without rope, padded to two panels, then the other.
__device__ __forceinline__ const float* chunkOfQuery(const Parameters& p, const GroupTile& work, int row, int chunk) {
  constexpr int kNopeChunks = kNopePanels * kTileColumns / 8;
  const bool isRope = chunk >= kNopeChunks;
  const int dim = isRope ? p.ropeDim : p.nopeDim, column = 8 * (isRope ? chunk - kNopeChunks : chunk);
  if (column >= dim) return nullptr;
  const float* heads = rowOf(isRope ? p.queryRope : p.op.query, work.tile.firstToken + work.token(row));
  return heads + static_cast<int64_t>(work.head(row)) * dim + column;
}

__device__ __forceinline__ SoftmaxState* stateOf(const Parameters& p, const GroupTile& work, int row) {
  return p.states + static_cast<int64_t>(work.token(row)) * p.op.numHeads + work.head(row);
}

/// The tile's rows take the keys of this launch.
__device__ void attendTile(Shared<S>& shared, const Parameters& p, const GroupTile& work, const KeyRange& range) {
  const OwnRows rows(work, 0, groupOf<S>());
  SoftmaxState totals[2];
  float sums[S::kSums];
  if (range.first > 0) {
#pragma unroll
    for (int r = 0; r < 2; ++r)
      if (rows.present[r]) totals[r] = *stateOf(p, work, rows.row[r]);
  }
  loadQuery(shared, work, [&](int row, int chunk) { return chunkOfQuery(p, work, row, chunk); });
  const SplitRange splits = {range.first / kLongSplit, static_cast<int>(ceilDivide(range.end, kLongSplit))};
  attendSplits(shared, p, work, rows, splits, totals, sums);
  if (work.keys.end <= p.range.end) return writeRows<S>(p.op, work, rows, totals, sums);
#pragma unroll
  for (int r = 0; r < 2; ++r)
    if (rows.present[r] && laneOf() % 4 == 0) *stateOf(p, work, rows.row[r]) = totals[r];
}

__global__ void __launch_bounds__(S::kThreads, 1) attentionExpandedKernel(const __grid_constant__ Parameters p) {
  constexpr int kProducerRegisters = 24, kConsumerRegisters = 240;
  auto& shared = sharedMemory<Shared<S>>();
  const int first = kTileRows * static_cast<int>(gridDim.x - 1 - blockIdx.x);  // those with the most keys first
  const RequestTokens& request = p.request;
  const QueryTile tile = {0, first, min(kTileRows, request.tokens - first), request.firstToken,
                          request.end - request.tokens};
  const GroupTile work(p.op, tile, static_cast<int>(blockIdx.y));
  const KeyRange range = {p.range.first, min(p.range.end, work.keys.end)};
  if (range.first >= range.end) return;
  if (threadIdx.x == 0) {
    shared.keyChannel.begin(S::kConsumers * kWarpgroup / kWarp);
    shared.valueChannel.begin(S::kConsumers * kWarpgroup / kWarp);
    publishBarriers();
  }
  __syncthreads();
  if (threadIdx.x < kWarpgroup) {
    giveRegisters<kProducerRegisters>();
    if (warpOf() == 0) produce(shared, p, work, range);
  } else {
    takeRegisters<kConsumerRegisters>();
    attendTile(shared, p, work, range);
  }
}

/// [positions, heads, columns] of the workspace, a box being a tile of one head's.
cudaError_t encodeWorkspace(void* encoder, TensorMap* map, const void* base, int32_t positions, int32_t heads,
                            int32_t columns) {
  const uint64_t headBytes = sizeof(uint16_t) * columns;
  const Planes planes = {base,
                         static_cast<uint64_t>(columns),
                         static_cast<uint64_t>(heads),
                         static_cast<uint64_t>(positions),
                         headBytes,
                         heads * headBytes};
  return encodeTensorMap(encoder, map, planes, S::kKeys);
}

cudaError_t encodeMaps(void* encoder, const PagodaKvCache& cache, const ExpandedKeys& keys, Parameters* p) {
  const int32_t count = keys.end - keys.first, heads = p->op.numHeads;
  if (const cudaError_t error = encodeWorkspace(encoder, &p->keys, keys.keys, count, heads, p->nopeDim)) return error;
  if (const cudaError_t error = encodeWorkspace(encoder, &p->values, keys.values, count, heads, p->op.cache.headDim))
    return error;
  const auto columns = static_cast<uint64_t>(cache.headDim);
  const uint64_t bytes = columns * sizeof(uint16_t);
  const Planes rows = {cache.data, columns, 1, static_cast<uint64_t>(p->numRows), bytes, bytes};
  return encodeTensorMap(encoder, &p->rows, rows, static_cast<uint32_t>(p->ropeBoxKeys));
}

}  // namespace

PagodaStatus attendExpandedKeysByWgmma(PagodaDevice* device, const PagodaMlaAttention& op, const RequestTokens& request,
                                       const ExpandedKeys& keys, SoftmaxState* states, PagodaError* error) {
  const PagodaKvCache& cache = op.cache;
  Parameters p = {};
  PagodaBatch batch = op.batch;
  batch.seqLens += request.request;
  const PagodaKvCache heads = {nullptr, 1, 1, op.numHeads, op.out.width / op.numHeads, PAGODA_BF16, 0};
  p.op = {op.out, op.query, heads, batch, op.numHeads, op.scale, 0, 0.0f, {}};
  p.queryRope = op.queryRope;
  p.request = request;
  p.range = {keys.first, keys.end};
  p.nopeDim = op.query.width / op.numHeads;
  p.ropeDim = cache.headDim - cache.latentDim;
  p.latentDim = cache.latentDim;
  p.blockSize = cache.blockSize;
  p.numRows = cache.numBlocks * cache.blockSize;
  p.ropeBoxKeys = chooseBoxKeys(cache.blockSize, S::kKeys);
  p.boxKeys = 1;
  p.blocks = batch.blockTable + static_cast<int64_t>(request.request) * batch.maxBlocks;
  p.states = states;
  if (const PagodaStatus status = check(encodeMaps(device->tensorMapEncoder, cache, keys, &p), "mlaAttention", error))
    return status;
  const auto tiles = static_cast<unsigned>(ceilDivide(request.tokens, kTileRows));
  const LaunchShape shape = {dim3(tiles, op.numHeads), dim3(S::kThreads), sizeof(Shared<S>)};
  return check(launch(attentionExpandedKernel, shape, device->stream, p), "mlaAttention", error);
}

}  // namespace pagoda::cuda
