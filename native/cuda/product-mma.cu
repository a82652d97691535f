// Products on the tensor cores by mma.sync, which every GPU has that this backend runs on (for bf16 weights on compute
// capability 9.0 see product-wgmma.cu): x is rounded to bf16, sums are f32. Other weights are rounded to bf16, too, as
// they are read: into registers for few rows, into shared memory for many.
//
// Every kernel computes an output by the same instructions in the same order, whatever rows it is computed with. The
// columns are cut into slices, at most kMaxSlices of them. A slice is summed from zero, 32 columns at a time, by two
// m16n8k16 steps; then the slices are added in order. In both steps a lane holds columns 8 q to 8 q + 7 of its rows, q
// being its place among the four of a row: words 0 and 1 of the 16 bytes are the operands of the first step, words 2
// and 3 of the second. So a lane reads its share of a row by one 16-byte load, from global or shared memory, and no row
// needs to be swizzled.
#include "product.cuh"

namespace pagoda::cuda {
namespace {

constexpr int kStepColumns = 32;
constexpr int kMinSlice = 512;
constexpr int kMaxSlices = 32;

/// Columns of a slice: it follows from the weight alone.
__host__ __device__ constexpr int sliceColumns(int inputs) {
  const auto even = static_cast<int>(roundUp(ceilDivide(inputs, kMaxSlices), kStepColumns));
  return even > kMinSlice ? even : kMinSlice;
}

/// `product` with its x rounded.
struct Parameters {
  Product product;
  const uint16_t* x;  // [xRows, heads, headStride]
  int64_t headStride;

  __device__ __forceinline__ const uint16_t* row(int expert, int slot) const {
    const int64_t row = product.rowOfSlot == nullptr ? slot : product.rowOfSlot[slot];
    return x + (row * product.heads + (product.heads > 1 ? expert : 0)) * headStride;
  }
  __device__ __forceinline__ const uint8_t* weights(int expert, int output) const {
    return product.weight + (static_cast<int64_t>(expert) * product.outputs + output) * product.rowBytes;
  }
  /// Columns of a weight's row that lie in memory: zeros behind the last one included.
  __device__ __forceinline__ int storedColumns() const {
    return static_cast<int>(roundUp(product.inputs, kCodecColumns));
  }
};

/// A lane's 16 bytes of a row.
struct Words {
  uint32_t of[4];

  static __device__ __forceinline__ Words load(const void* address) {
    const uint4 words = *static_cast<const uint4*>(address);
    return {{words.x, words.y, words.z, words.w}};
  }
  /// Eight columns of a weight's row.
  template <PagodaDtype kDtype>
  static __device__ __forceinline__ Words loadWeights(const uint8_t* row, int column) {
    if constexpr (kDtype == PAGODA_BF16) return load(reinterpret_cast<const uint16_t*>(row) + column);
    float values[kCodecColumns];
    Codec<kDtype>::load(row, column / kCodecColumns, values);
    Words words;
#pragma unroll
    for (int i = 0; i < 4; ++i) words.of[i] = packBf16(values[2 * i], values[2 * i + 1]);
    return words;
  }
  __device__ __forceinline__ void store(void* address) const {
    *static_cast<uint4*>(address) = make_uint4(of[0], of[1], of[2], of[3]);
  }
};

/// sums += 32 columns of 16 rows of x (`low` and `high`: the lane's row, and the one 8 below) times those of 8 weights.
__device__ __forceinline__ void multiplyStep(float (&sums)[4], const Words& low, const Words& high,
                                             const Words& weights) {
#pragma unroll
  for (int step = 0; step < 2; ++step) {
    const uint32_t a[4] = {low.of[2 * step], high.of[2 * step], low.of[2 * step + 1], high.of[2 * step + 1]};
    const uint32_t b[2] = {weights.of[2 * step], weights.of[2 * step + 1]};
    mmaBf16(sums, a, b);
  }
}

// ---- few rows: weights stream through registers, each warp having slices of its own
// ----------------------------------------

constexpr int kStreamThreads = 256;
constexpr int kStreamWarps = kStreamThreads / kWarp;
constexpr int kStreamTiles = 2;  // of 8 outputs
constexpr int kStreamOutputs = 8 * kStreamTiles;

struct StreamShared {
  float sums[kMaxSlices][kStreamTiles][16][8];
};

/// Sums of one slice. Absent rows and outputs are zeros.
template <PagodaDtype kDtype>
__device__ __forceinline__ void streamSlice(const Parameters& p, const RowTile& tile, int firstOutput, int begin,
                                            int end, float (&sums)[kStreamTiles][4]) {
  const int group = laneOf() / 4, column = 8 * (laneOf() % 4);
  const bool hasLow = group < tile.count, hasHigh = group + 8 < tile.count;
  const uint16_t* low = p.row(tile.expert, tile.first + (hasLow ? group : 0)) + column;
  const uint16_t* high = p.row(tile.expert, tile.first + (hasHigh ? group + 8 : 0)) + column;
  // Plain rows begin at the lane's columns, which saves a register.
  constexpr bool kIsPlain = kDtype == PAGODA_BF16;
  const int ownColumn = kIsPlain ? 0 : column;
  const uint8_t* weights[kStreamTiles];
  bool isPresent[kStreamTiles];
#pragma unroll
  for (int t = 0; t < kStreamTiles; ++t) {
    const int output = firstOutput + 8 * t + group;
    isPresent[t] = output < p.product.outputs;
    weights[t] = p.weights(tile.expert, isPresent[t] ? output : 0);
    if constexpr (kIsPlain) weights[t] += sizeof(uint16_t) * column;
  }
  const int stored = p.storedColumns() - column;
  const Words zeros = {};
#pragma unroll 4
  for (int k = begin; k < end; k += kStepColumns) {
    const Words lowWords = hasLow ? Words::load(low + k) : zeros;
    const Words highWords = hasHigh ? Words::load(high + k) : zeros;
#pragma unroll
    for (int t = 0; t < kStreamTiles; ++t) {
      const Words words = isPresent[t] && k < stored ? Words::loadWeights<kDtype>(weights[t], k + ownColumn) : zeros;
      multiplyStep(sums[t], lowWords, highWords, words);
    }
  }
}

template <PagodaDtype kDtype>
__global__ void __launch_bounds__(kStreamThreads, 2) streamKernel(const Parameters p) {
  auto& shared = sharedMemory<StreamShared>();
  const RowTile tile = p.product.tile(blockIdx.x, 16);
  if (tile.count <= 0) return;
  const int inputs = p.product.inputs, slice = sliceColumns(inputs);
  const int slices = static_cast<int>(ceilDivide(inputs, slice));
  for (int64_t first = static_cast<int64_t>(blockIdx.y) * kStreamOutputs; first < p.product.outputs;
       first += static_cast<int64_t>(gridDim.y) * kStreamOutputs) {
    for (int s = warpOf(); s < slices; s += kStreamWarps) {
      float sums[kStreamTiles][4] = {};
      streamSlice<kDtype>(p, tile, static_cast<int>(first), s * slice, min((s + 1) * slice, inputs), sums);
#pragma unroll
      for (int t = 0; t < kStreamTiles; ++t) {
#pragma unroll
        for (int i = 0; i < 4; ++i)
          shared.sums[s][t][laneOf() / 4 + 8 * (i / 2)][2 * (laneOf() % 4) + i % 2] = sums[t][i];
      }
    }
    __syncthreads();
    const int row = threadIdx.x / kStreamOutputs, output = threadIdx.x % kStreamOutputs;
    if (row < tile.count && first + output < p.product.outputs) {
      float sum = 0.0f;
      for (int s = 0; s < slices; ++s) sum += shared.sums[s][output / 8][row][output % 8];
      p.product.write(tile.expert, tile.first + row, static_cast<int>(first) + output, sum);
    }
    __syncthreads();
  }
}
static_assert(kStreamThreads == 16 * kStreamOutputs, "a thread adds the slices of one output of one row");

// ---- many rows: tiles of x and of the weights in shared memory
// ---------------------------------------------------------------

constexpr int kTileThreads = 256;
constexpr int kTileOutputs = 128;
constexpr int kStages = 4;
constexpr int kWarpsDown = 2;  // of the warps of a block, along its rows; the others are along the outputs
constexpr int kWarpsAcross = kTileThreads / kWarp / kWarpsDown;
constexpr int kWarpTiles = kTileOutputs / kWarpsAcross / 8;  // of 8 outputs, of a warp

template <int kRowTiles>  // of 16 rows, of a warp
struct TileShared {
  static constexpr int kRows = 16 * kRowTiles * kWarpsDown;
  struct Stage {
    uint16_t x[kRows][kStepColumns];
    uint16_t weights[kTileOutputs][kStepColumns];
  } stages[kStages];
};

/// Where a thread's copies come from: the 16 bytes `chunk` of every step of some rows of x and of the weights. Weights
/// that are rounded come through registers: they are loaded before the products of a step and stored behind them.
template <PagodaDtype kDtype, int kRowTiles>
class TileLoader {
 public:
  __device__ TileLoader(const Parameters& p, const RowTile& tile, int firstOutput)
      : readable_(p.x), stored_(p.storedColumns()), chunk_(threadIdx.x % kChunks) {
#pragma unroll
    for (int i = 0; i < kXCopies; ++i) {
      const int row = threadIdx.x / kChunks + i * kRowsAtOnce;
      x_[i] = row < tile.count ? p.row(tile.expert, tile.first + row) : nullptr;
    }
#pragma unroll
    for (int i = 0; i < kWeightCopies; ++i) {
      const int output = firstOutput + threadIdx.x / kChunks + i * kRowsAtOnce;
      weights_[i] = output < p.product.outputs ? p.weights(tile.expert, output) : nullptr;
    }
  }

  /// Queues the copies of the columns from `k` on, as one group.
  __device__ __forceinline__ void load(TileShared<kRowTiles>& shared, int step, int k, int inputs) {
    if (k < inputs) {
      auto& stage = shared.stages[step % kStages];
      const int column = k + 8 * chunk_, first = threadIdx.x / kChunks;
#pragma unroll
      for (int i = 0; i < kXCopies; ++i)
        copy(&stage.x[first + i * kRowsAtOnce][8 * chunk_], x_[i] + column, x_[i] != nullptr);
#pragma unroll
      for (int i = 0; i < kWeightCopies; ++i) {
        const bool isPresent = weights_[i] != nullptr && column < stored_;
        if constexpr (kIsRounded) {
          rounded_[i] = isPresent ? Words::loadWeights<kDtype>(weights_[i], column) : Words{};
        } else {
          copy(&stage.weights[first + i * kRowsAtOnce][8 * chunk_], weights_[i] + sizeof(uint16_t) * column, isPresent);
        }
      }
    }
    commitCopies();
  }

  /// Stores what the last `load` has rounded.
  __device__ __forceinline__ void store(TileShared<kRowTiles>& shared, int step, int k, int inputs) const {
    if constexpr (kIsRounded) {
      if (k >= inputs) return;
#pragma unroll
      for (int i = 0; i < kWeightCopies; ++i) {
        const int row = threadIdx.x / kChunks + i * kRowsAtOnce;
        rounded_[i].store(&shared.stages[step % kStages].weights[row][8 * chunk_]);
      }
    }
  }

 private:
  static constexpr int kChunks = kStepColumns / 8;  // of 16 bytes, of a row
  static constexpr int kRowsAtOnce = kTileThreads / kChunks;
  static constexpr int kXCopies = TileShared<kRowTiles>::kRows / kRowsAtOnce;
  static constexpr int kWeightCopies = kTileOutputs / kRowsAtOnce;
  static constexpr bool kIsRounded = kDtype != PAGODA_BF16;

  /// Zeros where there is nothing; the address is then that of some other memory that can be read.
  __device__ __forceinline__ void copy(void* to, const void* from, bool isPresent) const {
    copyAsync16(to, isPresent ? from : readable_, isPresent ? 16 : 0);
  }

  const uint16_t* readable_;
  int stored_;
  int chunk_;
  const uint16_t* x_[kXCopies];
  const uint8_t* weights_[kWeightCopies];
  Words rounded_[kIsRounded ? kWeightCopies : 1];
};

template <int kRowTiles>
__device__ __forceinline__ void multiplyStage(const typename TileShared<kRowTiles>::Stage& stage,
                                              float (&sums)[kRowTiles][kWarpTiles][4]) {
  const int group = laneOf() / 4, column = 8 * (laneOf() % 4);
  const int row = warpOf() / kWarpsAcross * 16 * kRowTiles + group;
  const int output = warpOf() % kWarpsAcross * 8 * kWarpTiles + group;
  Words weights[kWarpTiles];
#pragma unroll
  for (int t = 0; t < kWarpTiles; ++t) weights[t] = Words::load(&stage.weights[output + 8 * t][column]);
#pragma unroll
  for (int r = 0; r < kRowTiles; ++r) {
    const Words low = Words::load(&stage.x[row + 16 * r][column]);
    const Words high = Words::load(&stage.x[row + 16 * r + 8][column]);
#pragma unroll
    for (int t = 0; t < kWarpTiles; ++t) multiplyStep(sums[r][t], low, high, weights[t]);
  }
}

template <PagodaDtype kDtype, int kRowTiles>
__global__ void __launch_bounds__(kTileThreads, 1) tileProductKernel(const Parameters p) {
  auto& shared = sharedMemory<TileShared<kRowTiles>>();
  const RowTile tile = p.product.tile(blockIdx.x, TileShared<kRowTiles>::kRows);
  if (tile.count <= 0) return;
  const int inputs = p.product.inputs, slice = sliceColumns(inputs), firstOutput = blockIdx.y * kTileOutputs;
  TileLoader<kDtype, kRowTiles> loader(p, tile, firstOutput);
  for (int step = 0; step < kStages - 1; ++step) {
    loader.load(shared, step, step * kStepColumns, inputs);
    loader.store(shared, step, step * kStepColumns, inputs);
  }
  float totals[kRowTiles][kWarpTiles][4] = {};
  for (int begin = 0, step = 0; begin < inputs; begin += slice) {
    float sums[kRowTiles][kWarpTiles][4] = {};
    for (int k = begin; k < min(begin + slice, inputs); k += kStepColumns, ++step) {
      waitForCopies<kStages - 2>();
      __syncthreads();  // this step's copies are there, and all are done with the stage that is filled next
      loader.load(shared, step + kStages - 1, k + (kStages - 1) * kStepColumns, inputs);
      multiplyStage<kRowTiles>(shared.stages[step % kStages], sums);
      loader.store(shared, step + kStages - 1, k + (kStages - 1) * kStepColumns, inputs);
    }
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
      for (int t = 0; t < kWarpTiles; ++t) {
#pragma unroll
        for (int i = 0; i < 4; ++i) totals[r][t][i] += sums[r][t][i];
      }
    }
  }
  const int firstRow = warpOf() / kWarpsAcross * 16 * kRowTiles + laneOf() / 4;
  const int column = firstOutput + warpOf() % kWarpsAcross * 8 * kWarpTiles + 2 * (laneOf() % 4);
#pragma unroll
  for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
    for (int t = 0; t < kWarpTiles; ++t) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = firstRow + 16 * r + 8 * (i / 2), output = column + 8 * t + i % 2;
        if (row < tile.count && output < p.product.outputs)
          p.product.write(tile.expert, tile.first + row, output, totals[r][t][i]);
      }
    }
  }
}

template <PagodaDtype kDtype, int kRowTiles>
PagodaStatus launchTiles(PagodaDevice* device, const Parameters& p, int64_t tiles, const char* name,
                         PagodaError* error) {
  const LaunchShape shape = {
      dim3(static_cast<unsigned>(tiles), ceilDivide(p.product.outputs, kTileOutputs), p.product.heads),
      dim3(kTileThreads), sizeof(TileShared<kRowTiles>)};
  return check(launch(tileProductKernel<kDtype, kRowTiles>, shape, device->stream, p), name, error);
}

template <PagodaDtype kDtype>
PagodaStatus launchStream(PagodaDevice* device, const Parameters& p, int64_t tiles, const char* name,
                          PagodaError* error) {
  const int64_t blocks = ceilDivide(p.product.outputs, kStreamOutputs);
  const LaunchShape shape = {dim3(static_cast<unsigned>(tiles), blocks < 65535 ? blocks : 65535, p.product.heads),
                             dim3(kStreamThreads), sizeof(StreamShared)};
  return check(launch(streamKernel<kDtype>, shape, device->stream, p), name, error);
}

}  // namespace

PagodaStatus multiplyMma(PagodaDevice* device, const Product& product, const char* name, PagodaError* error) {
  const int64_t stride = roundUp(product.inputs, kStepColumns);
  const int64_t width = stride * product.heads;
  void* memory = nullptr;
  const uint64_t bytes = static_cast<uint64_t>(product.xRows) * width * sizeof(uint16_t);
  if (const PagodaStatus status = device->rounded.reserve(device->stream, bytes, &memory, error)) return status;
  const RoundedRows rounded = {product.x, product.xStride, nullptr,      static_cast<uint16_t*>(memory),
                               stride,    product.inputs,  product.heads};
  if (const PagodaStatus status = roundRows(device, rounded, product.xRows, name, error)) return status;
  const Parameters p = {product, rounded.out, stride};
  const int64_t tiles = product.tiles != nullptr ? product.maxTiles : ceilDivide(product.slots, product.tileRows);
  return withRoundedDtype(product.dtype, [&](auto dtype) {
    constexpr PagodaDtype kDtype = decltype(dtype)::value;
    if (product.tileRows == 16) return launchStream<kDtype>(device, p, tiles, name, error);
    if (product.tileRows == 64) return launchTiles<kDtype, 2>(device, p, tiles, name, error);
    return launchTiles<kDtype, 4>(device, p, tiles, name, error);
  });
}

}  // namespace pagoda::cuda
