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
constexpr int kNopePanels = ExpandedAttention::kNopeColumns / kTileColumns;  // of a key; the rope part is behind them
static_assert(fits<S>());

struct Parameters : ExpandedAttention {
  TensorMap keyMap;     // [positions, heads, nopeDim] from `keys.first` on
  TensorMap valueMap;   // [positions, heads, valueDim]
  TensorMap rowMap;     // of the cache
  int32_t numRows;      // of the cache
  int32_t ropeBoxKeys;  // that one copy takes
  int32_t boxKeys;      // 1: no V lies behind the end of the request
};

/// Where in the map of the cache the box of keys from `position` on begins; behind all rows, which gives zeros, where
/// none is seen.
__device__ __forceinline__ int rowOfBox(const Parameters& p, const GroupTile& work, int position) {
  if (position >= work.keys.end) return p.numRows;
  return static_cast<int>(slotOf(p.blocks(), position, p.source.cache.blockSize));
}

/// Queues K and V of these keys, as far ahead as there are stages. Lanes have a box each: the first half of them of the
/// rope keys.
__device__ void produce(Shared<S>& shared, const Parameters& p, const GroupTile& work, const KeyRange& range) {
  constexpr int kRopeLanes = 16;  // and a box has at least 8 keys
  static_assert(kRopeLanes * 8 == S::kKeys);
  const int ropeKey = laneOf() * p.ropeBoxKeys, panel = laneOf() - kRopeLanes;
  const int latentDim = p.source.cache.latentDim;
  Rings<S> rings;
  for (int first = range.first; first < range.end; first += S::kKeys) {
    const int row = first - p.keys.first;
    const int ropeRow = ropeKey < S::kKeys ? rowOfBox(p, work, first + ropeKey) : 0;
    shared.keyChannel.waitUntilEmpty(rings.keys);
    auto& keys = shared.keys[rings.keys.stage];
    PhaseBarrier& keysAreThere = shared.keyChannel.full[rings.keys.stage];
    if (laneOf() == 0) arriveAndExpect(keysAreThere, sizeof keys);
    __syncwarp();
    if (ropeKey < S::kKeys) copyBox(keys[kNopePanels][ropeKey], p.rowMap, keysAreThere, latentDim, 0, ropeRow);
    if (panel >= 0 && panel < kNopePanels)
      copyBox(keys[panel], p.keyMap, keysAreThere, kTileColumns * panel, work.kvHead, row);
    rings.keys.next();
    shared.valueChannel.waitUntilEmpty(rings.values);
    auto& values = shared.values[rings.values.stage];
    PhaseBarrier& valuesAreThere = shared.valueChannel.full[rings.values.stage];
    if (laneOf() == 0) arriveAndExpect(valuesAreThere, sizeof values);
    __syncwarp();
    if (laneOf() < S::kValuePanels)
      copyBox(values[laneOf()], p.valueMap, valuesAreThere, kTileColumns * laneOf(), work.kvHead, row);
    rings.values.next();
  }
}

/// The tile's rows take the keys of this launch.
__device__ void attendTile(Shared<S>& shared, const Parameters& p, const GroupTile& work, const KeyRange& range) {
  const OwnRows rows(work, 0, groupOf<S>());
  SoftmaxState totals[2];
  float sums[S::kSums];
  if (range.first > 0) {
#pragma unroll
    for (int r = 0; r < 2; ++r)
      if (rows.present[r]) totals[r] = *p.stateOf(work, rows.row[r]);
  }
  loadQuery(shared, work, [&](int row, int chunk) { return p.queryAt(work, row, 8 * chunk); });
  const SplitRange splits = {range.first / kLongSplit, static_cast<int>(ceilDivide(range.end, kLongSplit))};
  attendSplits(shared, p, work, rows, splits, totals, sums);
  if (work.keys.end <= p.keys.end) return writeRows<S>(p.op, work, rows, totals, sums);
#pragma unroll
  for (int r = 0; r < 2; ++r)
    if (rows.present[r] && laneOf() % 4 == 0) *p.stateOf(work, rows.row[r]) = totals[r];
}

__global__ void __launch_bounds__(S::kThreads, 1) attentionExpandedKernel(const __grid_constant__ Parameters p) {
  constexpr int kProducerRegisters = 24, kConsumerRegisters = 240;
  auto& shared = sharedMemory<Shared<S>>();
  const int index = gridDim.x - 1 - blockIdx.x;  // those with the most keys first
  const GroupTile work(p.op, p.tile(index, kTileRows), static_cast<int>(blockIdx.y));
  const KeyRange range = {p.keys.first, min(p.keys.end, work.keys.end)};
  if (range.first >= range.end) return;
  beginChannels(shared);
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

cudaError_t encodeMaps(void* encoder, Parameters* p) {
  const ExpandedKeys& keys = p->keys;
  const PagodaKvCache& cache = p->source.cache;
  const int32_t count = keys.end - keys.first, heads = p->op.numHeads;
  if (const cudaError_t error = encodeWorkspace(encoder, &p->keyMap, keys.keys, count, heads, p->nopeDim()))
    return error;
  if (const cudaError_t error = encodeWorkspace(encoder, &p->valueMap, keys.values, count, heads, p->valueDim()))
    return error;
  const auto columns = static_cast<uint64_t>(cache.headDim);
  const uint64_t bytes = columns * sizeof(uint16_t);
  const Planes rows = {cache.data, columns, 1, static_cast<uint64_t>(p->numRows), bytes, bytes};
  return encodeTensorMap(encoder, &p->rowMap, rows, static_cast<uint32_t>(p->ropeBoxKeys));
}

}  // namespace

PagodaStatus attendExpandedKeysByWgmma(PagodaDevice* device, const ExpandedAttention& attention, PagodaError* error) {
  const PagodaKvCache& cache = attention.source.cache;
  Parameters p = {attention, {}, {}, {}, 0, 0, 1};
  p.numRows = cache.numBlocks * cache.blockSize;
  p.ropeBoxKeys = chooseBoxKeys(cache.blockSize, S::kKeys);
  if (const PagodaStatus status = check(encodeMaps(device->tensorMapEncoder, &p), "mlaAttention", error)) return status;
  const auto tiles = static_cast<unsigned>(ceilDivide(attention.request.tokens, kTileRows));
  const LaunchShape shape = {dim3(tiles, attention.op.numHeads), dim3(S::kThreads), sizeof(Shared<S>)};
  return check(launch(attentionExpandedKernel, shape, device->stream, p), "mlaAttention", error);
}

}  // namespace pagoda::cuda
