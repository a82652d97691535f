// Products with bf16 weights on GPUs of compute capability 9.0: x is rounded to bf16, sums are f32.
//
// The weights are the rows of the instruction (m64nNk16) and the rows of x its columns, however few or many: so every
// row of x, in decode and in prefill, meets the same instruction on the same side, and the same steps in the same
// order. Only N differs, the number of rows that a tile has side by side. The columns are cut into slices, whose sums
// are added in order; how many follows from the weight alone. One block may sum all slices of a tile, or many blocks
// one each.
//
// In a block one thread keeps the copy engine busy; the warpgroups behind it multiply, 64 outputs each. Blocks take
// tiles in turn until none is left, and the copies run ahead into the next tile. The largest tiles are made by clusters
// of two blocks, which bring half of their rows of x each to both.
#include "product.cuh"
#include "ring.cuh"

namespace pagoda::cuda {
namespace {

constexpr int kMinSlice = 512;
constexpr int kMaxSlices = 8;
constexpr int kEnoughTiles = 64;  // of 64 outputs: so many blocks keep the memory busy
static_assert((kMaxSlices - 1) * kTileColumns < kMinSlice, "slices end at whole tiles, and the last one is not empty");

int32_t chooseSlices(const Product& p) {
  if (p.matrices > 1) return 1;  // there are tiles enough
  const auto tiles = static_cast<int32_t>(ceilDivide(p.outputs, kWarpgroupRows));
  const int32_t most = p.inputs / kMinSlice < kMaxSlices ? p.inputs / kMinSlice : kMaxSlices;
  const int32_t wanted = kEnoughTiles / tiles < most ? kEnoughTiles / tiles : most;
  return wanted > 1 ? wanted : 1;
}

/// kRows of x by 64 outputs for each consuming warpgroup. `kIsSplit`: a block has one slice of a tile, not all of them.
/// The blocks of a cluster have tiles beside each other, of the same rows, of which each block copies a part to all.
template <int kRowsOfX, int kConsumingGroups, int kNumStages, bool kOneSlice, int kClusterBlocks = 1>
struct Shape {
  static constexpr int kRows = kRowsOfX;
  static constexpr int kConsumers = kConsumingGroups;
  static constexpr int kStages = kNumStages;
  static constexpr bool kIsSplit = kOneSlice;
  static constexpr int kCluster = kClusterBlocks;
  static constexpr int kOutputs = kWarpgroupRows * kConsumers;
  static constexpr int kClusterOutputs = kOutputs * kCluster;
  static constexpr int kCopiedRows = kRows / kCluster;  // of x, by one block
  static constexpr int kThreads = kWarpgroup * (1 + kConsumers);
  static constexpr int kValues = kRows / 2;  // of a tile, that a thread holds
  static_assert(kCopiedRows % 8 == 0);
};

using FewRows = Shape<16, 1, 20, true>;
using SomeRows = Shape<64, 1, 12, true>;
using ManyRows = Shape<128, 2, 6, false>;
using MostRows = Shape<256, 2, 4, false, 2>;  // of weights with one slice: its sums take half the registers

struct Parameters {
  TensorMap weights;  // [matrices, outputs, inputs]
  TensorMap x;        // [slots, heads, inputs]
  Product product;
  int32_t slices;
  int32_t sliceColumns;
  float* partials;    // [tiles, slices, kValues, kWarpgroup]
  int32_t* arrivals;  // [tiles], of the blocks that have left their slice there
};

template <typename S>
struct Shared {
  struct alignas(kSwizzleBytes) Stage {
    uint16_t weights[S::kOutputs][kTileColumns];
    uint16_t x[S::kRows][kTileColumns];
  } stages[S::kStages];
  Channel<S::kStages> channel;
  bool isLast;
};

/// What a block computes at a time: some columns of a tile.
struct Item {
  RowTile rows;
  int32_t output;  // the first one
  int32_t tile;
  int32_t slice;
  int32_t begin, end;  // columns
};

/// The items of a launch, which a cluster takes in turn. Neighbours share weights or rows of x, so that blocks that run
/// at a time meet in the L2 cache: kGroup tiles of outputs go through all rows before the next ones begin.
template <typename S>
class Items {
 public:
  __device__ explicit Items(const Parameters& p) : p_(p) {
    const Product& product = p.product;
    rowTilesEach_ = static_cast<int>(ceilDivide(product.slots, S::kRows));
    rowTiles_ = product.tiles != nullptr ? *product.numTiles : rowTilesEach_ * product.heads;
    outputTiles_ = static_cast<int>(ceilDivide(product.outputs, S::kClusterOutputs));
    rank_ = S::kCluster > 1 ? clusterRank() : 0;
  }

  /// Calls visit(item) for all items of the block.
  template <typename Visit>
  __device__ __forceinline__ void forEach(Visit visit) const {
    const int count = rowTiles_ * outputTiles_ * (S::kIsSplit ? p_.slices : 1);
    for (int index = blockIdx.x / S::kCluster; index < count; index += gridDim.x / S::kCluster) visit(get(index));
  }

  __device__ __forceinline__ int rank() const { return rank_; }

 private:
  static constexpr int kGroup = 2048 / S::kClusterOutputs;

  __device__ Item get(int index) const {
    Item item;
    item.slice = S::kIsSplit ? index % p_.slices : 0;
    item.tile = S::kIsSplit ? index / p_.slices : index;
    const int group = item.tile / (kGroup * rowTiles_), within = item.tile % (kGroup * rowTiles_);
    const int width = min(kGroup, outputTiles_ - group * kGroup);
    item.rows = rowTile(within / width);
    item.output = (group * kGroup + within % width) * S::kClusterOutputs + rank_ * S::kOutputs;
    item.begin = item.slice * p_.sliceColumns;
    item.end = S::kIsSplit ? min(item.begin + p_.sliceColumns, p_.product.inputs) : p_.product.inputs;
    return item;
  }

  __device__ RowTile rowTile(int index) const {
    if (p_.product.tiles != nullptr) return p_.product.tiles[index];
    const int first = index % rowTilesEach_ * S::kRows;
    return {index / rowTilesEach_, first, min(S::kRows, p_.product.slots - first)};
  }

  const Parameters& p_;
  int rowTilesEach_, rowTiles_, outputTiles_, rank_;
};

/// Queues the copies of all items of the block, as far ahead as there are stages. One thread.
template <typename S>
__device__ void produce(Shared<S>& shared, const Parameters& p) {
  const Items<S> items(p);
  Ring<S::kStages> ring;
  items.forEach([&](const Item& item) {
    const int plane = p.product.heads > 1 ? item.rows.expert : 0;
    const int row = item.rows.expert * p.product.outputs + item.output;
    const int firstCopied = items.rank() * S::kCopiedRows;  // of x
    for (int k = item.begin; k < item.end; k += kTileColumns, ring.next()) {
      auto& stage = shared.stages[ring.stage];
      PhaseBarrier& full = shared.channel.full[ring.stage];
      shared.channel.waitUntilEmpty(ring);
      arriveAndExpect(full, sizeof stage);
      copyBox(stage.weights, p.weights, full, k, 0, row);
      if constexpr (S::kCluster > 1) {
        constexpr uint16_t kAll = (1 << S::kCluster) - 1;
        copyBoxToCluster(stage.x[firstCopied], p.x, full, k, plane, item.rows.first + firstCopied, kAll);
      } else {
        copyBox(stage.x, p.x, full, k, plane, item.rows.first);
      }
    }
  });
}

/// sums = the columns [begin, end) of the tile. One product is always on its way while the next one is prepared.
template <typename S>
__device__ __forceinline__ void multiplyColumns(Shared<S>& shared, Ring<S::kStages>& ring, int begin, int end,
                                                float (&sums)[S::kValues]) {
  const int group = threadIdx.x / kWarpgroup - 1;
  int previous = -1;
  for (int k = begin; k < end; k += kTileColumns) {
    shared.channel.waitUntilFull(ring);
    auto& stage = shared.stages[ring.stage];
    const uint64_t weights = describeMatrix(sharedAddress(stage.weights[kWarpgroupRows * group]));
    const uint64_t x = describeMatrix(sharedAddress(stage.x));
    beginProducts();
#pragma unroll
    for (int column = 0; column < kTileColumns; column += kMatrixStep)
      multiplyBf16Async(sums, advance(weights, column), advance(x, column), k > begin || column > 0);
    commitProducts();
    waitForProducts<1>();
    if (previous >= 0) shared.channel.template release<S::kCluster>(previous);
    previous = ring.stage;
    ring.next();
  }
  waitForProducts<0>();
  shared.channel.template release<S::kCluster>(previous);
}

/// Leaves a slice's sums in memory. The last block that does so for a tile gets true, and the sum of all slices.
template <typename S>
__device__ bool mergeSlices(Shared<S>& shared, const Parameters& p, const Item& item, float (&sums)[S::kValues]) {
  constexpr int kBarrier = 1, kSlice = S::kValues * kWarpgroup;
  static_assert(S::kConsumers == 1, "the barrier is one warpgroup's");
  float* partials = p.partials + static_cast<int64_t>(item.tile) * p.slices * kSlice + threadIdx.x % kWarpgroup;
#pragma unroll
  for (int i = 0; i < S::kValues; ++i) partials[item.slice * kSlice + i * kWarpgroup] = sums[i];
  __threadfence();
  barrierSync(kBarrier, kWarpgroup);
  if (threadIdx.x % kWarpgroup == 0) shared.isLast = atomicAdd(&p.arrivals[item.tile], 1) == p.slices - 1;
  barrierSync(kBarrier, kWarpgroup);
  if (!shared.isLast) return false;
  __threadfence();
#pragma unroll
  for (int i = 0; i < S::kValues; ++i) sums[i] = __ldcg(partials + i * kWarpgroup);
  for (int slice = 1; slice < p.slices; ++slice) {
#pragma unroll
    for (int i = 0; i < S::kValues; ++i) sums[i] += __ldcg(partials + slice * kSlice + i * kWarpgroup);
  }
  return true;
}

/// All slices of a tile by one block.
template <typename S>
__device__ __forceinline__ void multiplySlices(Shared<S>& shared, Ring<S::kStages>& ring, const Parameters& p,
                                               float (&totals)[S::kValues]) {
  if constexpr (S::kRows == MostRows::kRows) {
    multiplyColumns<S>(shared, ring, 0, p.product.inputs, totals);
  } else {
    for (int begin = 0; begin < p.product.inputs; begin += p.sliceColumns) {
      float sums[S::kValues];
      multiplyColumns<S>(shared, ring, begin, min(begin + p.sliceColumns, p.product.inputs), sums);
#pragma unroll
      for (int i = 0; i < S::kValues; ++i) totals[i] = begin == 0 ? sums[i] : totals[i] + sums[i];
    }
  }
}

/// Each store of a warp fills eight elements of four rows.
template <typename Element, int kValues>
__device__ __forceinline__ void writeTile(const Product& p, const RowTile& rows, int firstOutput,
                                          const float (&sums)[kValues]) {
  const int thread = threadIdx.x % kWarpgroup;
  const int64_t column = p.heads > 1 ? static_cast<int64_t>(rows.expert) * p.headOutputs : 0;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int output = firstOutput + resultRow(thread, 2 * half);
    if (output >= p.outputs) continue;
    const float shift = p.bias == nullptr ? 0.0f : p.bias[static_cast<int64_t>(rows.expert) * p.outputs + output];
    Element* out = static_cast<Element*>(p.out) + rows.first * p.outStride + column + output;
#pragma unroll
    for (int j = 0; j < kValues / 2; ++j) {
      const int i = 4 * (j / 2) + 2 * half + j % 2;
      const int row = resultColumn(thread, i);
      if (row < rows.count) Product::store(out + row * p.outStride, sums[i] + shift);
    }
  }
}

/// A warpgroup's part of all items of the block.
template <typename S>
__device__ void consume(Shared<S>& shared, const Parameters& p) {
  const Items<S> items(p);
  Ring<S::kStages> ring;
  const int group = threadIdx.x / kWarpgroup - 1;
  items.forEach([&](const Item& item) {
    float sums[S::kValues];
    if constexpr (S::kIsSplit) {
      multiplyColumns<S>(shared, ring, item.begin, item.end, sums);
      if (p.slices > 1 && !mergeSlices<S>(shared, p, item, sums)) return;
    } else {
      multiplySlices<S>(shared, ring, p, sums);
    }
    const int output = item.output + kWarpgroupRows * group;
    if (p.product.outDtype == PAGODA_BF16) {
      writeTile<uint16_t>(p.product, item.rows, output, sums);
    } else {
      writeTile<float>(p.product, item.rows, output, sums);
    }
  });
}

/// All threads of the block, or of its cluster.
template <typename S>
__device__ __forceinline__ void meet() {
  if constexpr (S::kCluster > 1) {
    syncCluster();
  } else {
    __syncthreads();
  }
}

template <typename S>
__global__ void __launch_bounds__(S::kThreads, 1) wgmmaKernel(const __grid_constant__ Parameters p) {
  constexpr int kProducerRegisters = 40, kConsumerRegisters = 232;
  constexpr bool kMovesRegisters = S::kConsumers > 1;
  auto& shared = sharedMemory<Shared<S>>();
  if (threadIdx.x == 0) {
    shared.channel.begin(S::kCluster * S::kConsumers * kWarpgroup / kWarp);
    publishBarriers();
  }
  meet<S>();
  if (threadIdx.x < kWarpgroup) {
    if constexpr (kMovesRegisters) giveRegisters<kProducerRegisters>();
    if (threadIdx.x == 0) produce<S>(shared, p);
  } else {
    if constexpr (kMovesRegisters) takeRegisters<kConsumerRegisters>();
    consume<S>(shared, p);
  }
  if constexpr (S::kCluster > 1) meet<S>();  // nobody returns while others may write to its memory
}

/// What a launch needs of device memory, in parts aligned to 256 bytes.
struct Sizes {
  int64_t tiles;
  int64_t headStride;  // elements
  uint64_t x, arrivals, partials;

  template <typename S>
  static Sizes of(const Product& p, int32_t slices) {
    const int64_t rowTiles = p.tiles != nullptr ? p.maxTiles : ceilDivide(p.slots, S::kRows) * p.heads;
    Sizes sizes = {};
    sizes.tiles = rowTiles * ceilDivide(p.outputs, S::kClusterOutputs) * S::kCluster;
    sizes.headStride = roundUp(p.inputs, kPlainGroup);
    sizes.x = roundUp(p.slots * p.heads * sizes.headStride * sizeof(uint16_t), 256);
    if (!S::kIsSplit || slices == 1) return sizes;
    sizes.arrivals = roundUp(sizes.tiles * sizeof(int32_t), 256);
    sizes.partials = sizes.tiles * slices * S::kValues * kWarpgroup * sizeof(float);
    return sizes;
  }
};

cudaError_t encodeMaps(void* encoder, Parameters& p, const uint16_t* x, int64_t headStride, uint32_t outputs,
                       uint32_t rows) {
  const Product& product = p.product;
  const auto columns = static_cast<uint64_t>(product.inputs);
  const uint64_t headBytes = headStride * sizeof(uint16_t);
  const Planes weights = {product.weight,
                          columns,
                          1,
                          static_cast<uint64_t>(product.matrices) * product.outputs,
                          static_cast<uint64_t>(product.rowBytes),
                          static_cast<uint64_t>(product.rowBytes)};
  if (const cudaError_t error = encodeTensorMap(encoder, &p.weights, weights, outputs)) return error;
  const auto heads = static_cast<uint64_t>(product.heads);
  return encodeTensorMap(encoder, &p.x,
                         {x, columns, heads, static_cast<uint64_t>(product.slots), headBytes, heads * headBytes}, rows);
}

template <typename S>
PagodaStatus launchShape(PagodaDevice* device, const Product& product, int32_t slices, const char* name,
                         PagodaError* error) {
  const Sizes sizes = Sizes::of<S>(product, slices);
  void* memory = nullptr;
  const uint64_t bytes = sizes.x + sizes.arrivals + sizes.partials;
  if (const PagodaStatus status = device->rounded.reserve(device->stream, bytes, &memory, error)) return status;
  auto* base = static_cast<uint8_t*>(memory);
  auto* x = reinterpret_cast<uint16_t*>(base);
  Parameters p = {};
  p.product = product;
  p.slices = slices;
  p.sliceColumns = static_cast<int32_t>(roundUp(ceilDivide(product.inputs, slices), kTileColumns));
  p.arrivals = reinterpret_cast<int32_t*>(base + sizes.x);
  p.partials = reinterpret_cast<float*>(base + sizes.x + sizes.arrivals);
  const cudaError_t encoded = encodeMaps(device->tensorMapEncoder, p, x, sizes.headStride, S::kOutputs, S::kCopiedRows);
  if (const PagodaStatus status = check(encoded, name, error)) return status;
  const auto counters = static_cast<int32_t>(sizes.arrivals / sizeof(int32_t));
  const RoundedRows rounded = {product.x,      product.xStride, product.rowOfSlot, x,       sizes.headStride,
                               product.inputs, product.heads,   p.arrivals,        counters};
  if (const PagodaStatus status = roundRows(device, rounded, product.slots, name, error)) return status;
  const int64_t items = sizes.tiles * (S::kIsSplit ? slices : 1);
  const int64_t most = device->multiprocessors / S::kCluster * S::kCluster, blocks = items < most ? items : most;
  const LaunchShape shape = {dim3(static_cast<unsigned>(blocks)), dim3(S::kThreads), sizeof(Shared<S>), S::kCluster};
  return check(launch(wgmmaKernel<S>, shape, device->stream, p), name, error);
}

}  // namespace

PagodaStatus multiplyWgmma(PagodaDevice* device, const Product& product, const char* name, PagodaError* error) {
  const int32_t slices = chooseSlices(product);
  if (product.tileRows == 16) return launchShape<FewRows>(device, product, slices, name, error);
  if (product.tileRows == 64) return launchShape<SomeRows>(device, product, slices, name, error);
  const bool isLarge = product.tiles == nullptr && slices == 1 && product.slots > ManyRows::kRows &&
                       device->multiprocessors >= MostRows::kCluster;
  if (isLarge) return launchShape<MostRows>(device, product, slices, name, error);
  return launchShape<ManyRows>(device, product, slices, name, error);
}

}  // namespace pagoda::cuda
