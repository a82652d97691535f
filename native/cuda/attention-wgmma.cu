// Paged attention over bf16 caches on GPUs of compute capability 9.0, for heads of 64 to 256 columns, after
// FlashAttention-3 (arXiv:2407.08608): a warp feeds the copy engine (TMA), box by box through the block table, and
// warpgroups multiply 64 packed rows each (attention-consumers.cuh).
//
// Prefill has blocks of 128 rows, whose two warpgroups take turns: one computes its softmax while the other one
// multiplies. Decode has blocks of 64 rows that take a split of a request's keys and then the next one, copies running
// ahead. Both do the same to a row, instruction by instruction, so both give it the same bits.
#include "attention-consumers.cuh"

namespace pagoda::cuda {
namespace {

constexpr int kPrefillRows = 2 * kWarpgroupRows;
template <int kDim>
using Prefill = Shape<kDim, kDim, 2, kDim == 64 ? 4 : 2>;
template <int kDim>
using Decode = Shape<kDim, kDim, 1, kDim == 64 ? 6 : 3>;
static_assert(fits<Prefill<128>>() && fits<Decode<128>>() && fits<Prefill<256>>() && fits<Decode<256>>());

struct Parameters {
  TensorMap vectors;  // all K and V of the cache, one row each
  PagodaAttention op;
  Partials partials;   // of decode: [split, request, KV head, partialRows]; no memory where there is but one split
  int32_t numVectors;  // rows of the map
  int32_t boxKeys;     // that one copy takes
  int32_t partialRows;
  int32_t minRows;  // packed rows of the requests that this launch is for
  int32_t maxRows;
};

// ---- the producer's warp --------------------------------------------------------------------------------------------

/// Where in the map the box of keys from `position` on has its K; where none of its keys is seen, behind all rows,
/// which gives zeros.
__device__ __forceinline__ int rowOfBox(const Parameters& p, const GroupTile& work, int position) {
  const PagodaKvCache& cache = p.op.cache;
  if (position >= work.keys.end || position + p.boxKeys <= work.keys.first) return p.numVectors;
  const int32_t* blocks = p.op.batch.blockTable + static_cast<int64_t>(work.tile.request) * p.op.batch.maxBlocks;
  const int block = blocks[position / cache.blockSize];
  return (2 * block * cache.numKvHeads + work.kvHead) * cache.blockSize + position % cache.blockSize;
}

/// Copies one part of a tile: every lane at most one box of one panel.
template <typename S>
__device__ __forceinline__ void copyTile(typename S::KeyTile& stage, PhaseBarrier& full, const Parameters& p, int row) {
  const int boxes = S::kKeys / p.boxKeys, panel = laneOf() / boxes;
  if (laneOf() == 0) arriveAndExpect(full, sizeof stage);
  __syncwarp();
  if (panel < S::kPanels)
    copyBox(stage[panel][laneOf() % boxes * p.boxKeys], p.vectors, full, kTileColumns * panel, 0, row);
}

/// Queues K and V of all tiles of these keys, as far ahead as there are stages.
template <typename S>
__device__ void produce(Shared<S>& shared, Rings<S>& rings, const Parameters& p, const GroupTile& work,
                        const KeyRange& range) {
  const int ownBox = laneOf() % (S::kKeys / p.boxKeys) * p.boxKeys;
  const int toValues = p.op.cache.numKvHeads * p.op.cache.blockSize;
  for (int first = range.first; first < range.end; first += S::kKeys) {
    const int row = rowOfBox(p, work, first + ownBox);
    shared.keyChannel.waitUntilEmpty(rings.keys);
    copyTile<S>(shared.keys[rings.keys.stage], shared.keyChannel.full[rings.keys.stage], p, row);
    rings.keys.next();
    shared.valueChannel.waitUntilEmpty(rings.values);
    copyTile<S>(shared.values[rings.values.stage], shared.valueChannel.full[rings.values.stage], p, row + toValues);
    rings.values.next();
  }
}

// ---- prefill --------------------------------------------------------------------------------------------------------

template <typename S>
__device__ __forceinline__ void loadQuery(Shared<S>& shared, const PagodaAttention& op, const GroupTile& work) {
  const int dim = op.cache.headDim;
  loadQuery(shared, work, [&](int row, int chunk) -> const float* {
    if (8 * chunk >= dim) return nullptr;
    const float* heads = rowOf(op.query, work.tile.firstToken + work.token(row));
    return heads + static_cast<int64_t>(work.head(row)) * dim + 8 * chunk;
  });
}

/// Goes through all splits of a tile and writes it.
template <typename S>
__device__ __forceinline__ void attendTile(Shared<S>& shared, const Parameters& p, const GroupTile& work) {
  const OwnRows rows(work, p.op.slidingWindow, groupOf<S>());
  const SplitRange splits = {work.keys.first / kLongSplit, static_cast<int>(ceilDivide(work.keys.end, kLongSplit))};
  SoftmaxState totals[2];
  float sums[S::kSums];
  loadQuery(shared, p.op, work);
  attendSplits(shared, p, work, rows, splits, totals, sums);
  writeRows<S>(p.op, work, rows, totals, sums);
}

template <int kDim>
__global__ void __launch_bounds__(Prefill<kDim>::kThreads, 1)
    attentionPrefillKernel(const __grid_constant__ Parameters p) {
  using S = Prefill<kDim>;
  constexpr int kProducerRegisters = 24, kConsumerRegisters = 240;
  auto& shared = sharedMemory<Shared<S>>();
  const int index = gridDim.x - 1 - blockIdx.x;  // those with the most keys first
  const QueryTile tile =
      findTile(p.op.batch, index, p.op.numHeads / p.op.cache.numKvHeads, kPrefillRows, &shared.found);
  const int packed = packedRows(p.op, tile.request);
  if (tile.count <= 0 || packed < p.minRows || packed > p.maxRows) return;
  const GroupTile work(p.op, tile, static_cast<int>(blockIdx.y));
  beginChannels(shared);
  if (threadIdx.x < kWarpgroup) {
    giveRegisters<kProducerRegisters>();
    if (warpOf() > 0) return;
    Rings<S> rings;
    produce(shared, rings, p, work, {work.keys.first / S::kKeys * S::kKeys, work.keys.end});
  } else {
    takeRegisters<kConsumerRegisters>();
    attendTile(shared, p, work);
  }
}

// ---- decode ---------------------------------------------------------------------------------------------------------

/// A split of the keys of a request and a KV head.
struct Item {
  GroupTile work;
  int split;
};

/// The items of a batch, one request after the other.
class Items {
 public:
  __device__ explicit Items(const Parameters& p) : p_(p) {}

  __device__ int countOf(int request) const {
    const GroupTile work = whole(request, 0);
    if (work.tile.count < p_.minRows || work.tile.count > p_.maxRows) return 0;
    return splitsOf(work) * p_.op.cache.numKvHeads;
  }

  __device__ bool find(int index, int* request, int* item) {
    return search_.find(
        p_.op.batch.numRequests, index, [&](int r) { return countOf(r); }, request, item);
  }

  __device__ Item get(int request, int item) const {
    const GroupTile work = whole(request, item % p_.op.cache.numKvHeads);
    return {work, work.keys.first / kLongSplit + item / p_.op.cache.numKvHeads};
  }

 private:
  /// All rows of a request for a KV head.
  __device__ GroupTile whole(int request, int kvHead) const {
    const PagodaBatch& batch = p_.op.batch;
    const int first = batch.queryStartLoc[request], tokens = batch.queryStartLoc[request + 1] - first;
    return {p_.op, {request, 0, packedRows(p_.op, request), first, batch.seqLens[request] - tokens}, kvHead};
  }
  static __device__ int splitsOf(const GroupTile& work) {
    return static_cast<int>(ceilDivide(work.keys.end, kLongSplit)) - work.keys.first / kLongSplit;
  }

  const Parameters& p_;
  ItemSearch search_;
};

template <typename S>
__device__ __forceinline__ void attendItem(Shared<S>& shared, Rings<S>& rings, const Parameters& p, const Item& item) {
  const OwnRows rows(item.work, p.op.slidingWindow, 0);
  SoftmaxState states[2];
  float sums[S::kSums];
  loadQuery(shared, p.op, item.work);
  attendSplit(shared, rings, p, item.work, rows, keysOfSplit<S>(item.work, item.split), states, sums);
  if (p.partials.sums != nullptr) return leaveSplit<S>(p, item.work, rows, item.split, states, sums);
  SoftmaxState totals[2];
  const MergeFactors factors[2] = {merge(totals[0], states[0]), merge(totals[1], states[1])};
#pragma unroll
  for (int i = 0; i < S::kSums; ++i) sums[i] = mergeSums(0.0f, sums[i], factors[rowOfElement(i)]);
  writeRows<S>(p.op, item.work, rows, totals, sums);
}

template <int kDim>
__global__ void __launch_bounds__(Decode<kDim>::kThreads, 1)
    attentionDecodeKernel(const __grid_constant__ Parameters p) {
  using S = Decode<kDim>;
  auto& shared = sharedMemory<Shared<S>>();
  beginChannels(shared);
  if (threadIdx.x >= kWarp && threadIdx.x < kWarpgroup) return;
  Items items(p);
  Rings<S> rings;
  int request, number;
  for (int index = blockIdx.x; items.find(index, &request, &number); index += gridDim.x) {
    const Item item = items.get(request, number);
    if (threadIdx.x < kWarp) {
      produce(shared, rings, p, item.work, keysOfSplit<S>(item.work, item.split));
    } else {
      attendItem(shared, rings, p, item);
    }
  }
}

// ---- the host -------------------------------------------------------------------------------------------------------

int64_t vectorsOf(const PagodaKvCache& cache) {
  return int64_t{2} * cache.numBlocks * cache.numKvHeads * cache.blockSize;
}

cudaError_t encodeMap(void* encoder, const PagodaKvCache& cache, Parameters& p) {
  const auto columns = static_cast<uint64_t>(cache.headDim);
  const uint64_t bytes = columns * sizeof(uint16_t);
  const Planes vectors = {cache.data, columns, 1, static_cast<uint64_t>(vectorsOf(cache)), bytes, bytes};
  return encodeTensorMap(encoder, &p.vectors, vectors, static_cast<uint32_t>(p.boxKeys));
}

template <int kDim>
PagodaStatus runPrefill(PagodaDevice* device, Parameters p, int32_t minRows, PagodaError* error) {
  using S = Prefill<kDim>;
  const PagodaAttention& op = p.op;
  p.minRows = minRows, p.maxRows = INT32_MAX;
  const int64_t tiles =
      maxQueryTiles(op.batch.numTokens, op.batch.numRequests, op.numHeads / op.cache.numKvHeads, kPrefillRows);
  const LaunchShape shape = {dim3(static_cast<unsigned>(tiles), op.cache.numKvHeads), dim3(S::kThreads),
                             sizeof(Shared<S>)};
  return check(launch(attentionPrefillKernel<kDim>, shape, device->stream, p), "attention", error);
}

/// What the partial results of decode need.
struct DecodePlan {
  int64_t splits;
  int64_t rows;  // of a request and KV head
  int64_t heads;
  uint64_t bytes;

  DecodePlan(const PagodaAttention& op, int group) {
    splits = ceilDivide(op.batch.maxSeqLen, kLongSplit);
    const int64_t packed = static_cast<int64_t>(op.batch.maxQueryLen) * group;
    rows = packed < kWarpgroupRows ? packed : kWarpgroupRows;
    heads = static_cast<int64_t>(op.batch.numRequests) * op.cache.numKvHeads;
    bytes = splits * heads * rows * (op.cache.headDim * sizeof(float) + sizeof(SoftmaxState));
  }
};

template <int kDim>
PagodaStatus runDecode(PagodaDevice* device, Parameters p, const DecodePlan& plan, PagodaError* error) {
  using S = Decode<kDim>;
  p.minRows = 1, p.maxRows = kWarpgroupRows;
  p.partialRows = static_cast<int32_t>(plan.rows);
  if (plan.splits > 1) {
    const auto splits = static_cast<int32_t>(plan.splits);
    if (const PagodaStatus status =
            reservePartials(device, splits, plan.heads * plan.rows, p.op.cache.headDim, &p.partials, error))
      return status;
  }
  const int64_t items = plan.heads * plan.splits;
  const int64_t blocks = items < device->multiprocessors ? items : device->multiprocessors;
  const LaunchShape shape = {dim3(static_cast<unsigned>(blocks)), dim3(S::kThreads), sizeof(Shared<S>)};
  if (const PagodaStatus status =
          check(launch(attentionDecodeKernel<kDim>, shape, device->stream, p), "attention", error))
    return status;
  if (plan.splits == 1) return PAGODA_OK;
  return combineDecode(device, {p.op, p.partials, p.partialRows, kLongSplit}, error);
}

/// Requests of up to 64 rows for a KV head are decode's, unless their partial results would take too much memory.
template <int kDim>
PagodaStatus run(PagodaDevice* device, const Parameters& p, PagodaError* error) {
  const int group = p.op.numHeads / p.op.cache.numKvHeads;
  const DecodePlan plan(p.op, group);
  const bool canDecode = group <= kWarpgroupRows && (plan.splits == 1 || plan.bytes <= device->maxPartialBytes);
  if (canDecode) {
    if (const PagodaStatus status = runDecode<kDim>(device, p, plan, error)) return status;
    if (static_cast<int64_t>(p.op.batch.maxQueryLen) * group <= kWarpgroupRows) return PAGODA_OK;
  }
  return runPrefill<kDim>(device, p, canDecode ? kWarpgroupRows + 1 : 1, error);
}

}  // namespace

bool canAttendByWgmma(const PagodaDevice& device, const PagodaAttention& op) {
  constexpr int64_t kMostVectors = int64_t{1} << 30;  // coordinates of boxes are int32
  const PagodaKvCache& cache = op.cache;
  return device.tensorMapEncoder != nullptr && cache.dtype == PAGODA_BF16 && cache.latentDim == 0 &&
         isWideEnough(cache.headDim) && cache.blockSize % 8 == 0 && vectorsOf(cache) <= kMostVectors;
}

PagodaStatus attendByWgmma(PagodaDevice* device, const PagodaAttention& op, PagodaError* error) {
  Parameters p = {};
  p.op = op;
  p.numVectors = static_cast<int32_t>(vectorsOf(op.cache));
  p.boxKeys = chooseBoxKeys(op.cache.blockSize, op.cache.headDim <= 128 ? Prefill<128>::kKeys : Prefill<256>::kKeys);
  if (const PagodaStatus status = check(encodeMap(device->tensorMapEncoder, op.cache, p), "attention", error))
    return status;
  if (op.cache.headDim <= 64) return run<64>(device, p, error);
  if (op.cache.headDim <= 128) return run<128>(device, p, error);
  return run<256>(device, p, error);
}

}  // namespace pagoda::cuda
