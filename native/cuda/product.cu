// Products in f32 arithmetic with f32 weights; all others run on the tensor cores (product-mma.cu, product-wgmma.cu). A
// warp computes an output for a tile of rows: a lane takes every 32nd group of columns, in order, and the lanes' sums
// are added at the end.
#include "product.cuh"

namespace pagoda::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kBlockOutputs = kThreads / kWarp;
constexpr int kSlice = 1024;  // columns of x in shared memory at a time
constexpr int kManyRows = 8;

/// One word in 33 is left out, so that lanes that are a group apart read from different banks.
__device__ __forceinline__ int padded(int column) { return column + column / kWarp; }

template <int kRows>
struct Shared {
  float x[kRows][kSlice + kSlice / kWarp];
};

template <int kRows>
__device__ void loadSlice(Shared<kRows>& shared, const Product& p, const RowTile& tile, int first) {
  for (int row = 0; row < kRows; ++row) {
    const float* x = row < tile.count ? p.row(tile.expert, tile.first + row) : nullptr;
    for (int i = threadIdx.x; i < kSlice; i += kThreads)
      shared.x[row][padded(i)] = x != nullptr && first + i < p.inputs ? x[first + i] : 0.0f;
  }
}

/// Adds the columns from `first` on that are in shared memory.
template <int kRows>
__device__ __forceinline__ void addSlice(const Shared<kRows>& shared, const uint8_t* weights, int first, int columns,
                                         float (&sums)[kRows]) {
  constexpr int kColumns = kCodecColumns;
  for (int group = laneOf(); group * kColumns < columns; group += kWarp) {
    float values[kColumns];
    Codec<PAGODA_F32>::load(weights, first / kColumns + group, values);
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
#pragma unroll
      for (int row = 0; row < kRows; ++row)
        sums[row] = fmaf(values[i], shared.x[row][padded(group * kColumns + i)], sums[row]);
    }
  }
}

template <int kRows>
__global__ void __launch_bounds__(kThreads, 2) productKernel(const Product p) {
  auto& shared = sharedMemory<Shared<kRows>>();
  const RowTile tile = p.tile(blockIdx.x, kRows);
  if (tile.count <= 0) return;
  for (int64_t first = static_cast<int64_t>(blockIdx.y) * kBlockOutputs; first < p.outputs;
       first += static_cast<int64_t>(gridDim.y) * kBlockOutputs) {
    const int output = static_cast<int>(first) + warpOf();
    const bool isPresent = output < p.outputs;
    const uint8_t* weights = p.weight + (static_cast<int64_t>(tile.expert) * p.outputs + output) * p.rowBytes;
    float sums[kRows] = {};
    for (int column = 0; column < p.inputs; column += kSlice) {
      loadSlice(shared, p, tile, column);
      __syncthreads();
      if (isPresent) addSlice(shared, weights, column, min(kSlice, p.inputs - column), sums);
      __syncthreads();
    }
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      const float sum = warpSum(sums[row]);
      if (laneOf() == 0 && isPresent && row < tile.count) p.write(tile.expert, tile.first + row, output, sum);
    }
  }
}

template <int kRows>
PagodaStatus launchProduct(PagodaDevice* device, const Product& p, const char* name, PagodaError* error) {
  const int64_t tiles = p.tiles != nullptr ? p.maxTiles : ceilDivide(p.slots, kRows);
  const int64_t blocks = ceilDivide(p.outputs, kBlockOutputs);
  const LaunchShape shape = {dim3(static_cast<unsigned>(tiles), blocks < 65535 ? blocks : 65535, p.heads),
                             dim3(kThreads), sizeof(Shared<kRows>)};
  return check(launch(productKernel<kRows>, shape, device->stream, p), name, error);
}

}  // namespace

int32_t chooseTileRows(PagodaDtype dtype, int64_t slots, int32_t experts) {
  if (dtype == PAGODA_F32) return slots == 1 ? 1 : kManyRows;
  const int64_t each = slots / experts;
  return each <= 16 ? 16 : each <= 64 ? 64 : 128;
}

PagodaStatus multiply(PagodaDevice* device, const Product& product, const char* name, PagodaError* error) {
  if (product.dtype == PAGODA_BF16 && device->tensorMapEncoder != nullptr)
    return multiplyWgmma(device, product, name, error);
  if (product.dtype != PAGODA_F32) return multiplyMma(device, product, name, error);
  if (product.tileRows == 1) return launchProduct<1>(device, product, name, error);
  return launchProduct<kManyRows>(device, product, name, error);
}

}  // namespace pagoda::cuda
