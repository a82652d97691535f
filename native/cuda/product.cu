// Products in f32 arithmetic, for every type of weight. A warp computes two outputs of a tile of rows: a lane takes
// every 32nd group of columns, in order, and the lanes' sums are added at the end.
#include "product.cuh"

namespace pagoda::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarpOutputs = 2;
constexpr int kBlockOutputs = kThreads / kWarp * kWarpOutputs;
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
    const float* x = row < tile.count ? p.row(tile.first + row) : nullptr;
    for (int i = threadIdx.x; i < kSlice; i += kThreads)
      shared.x[row][padded(i)] = x != nullptr && first + i < p.inputs ? x[first + i] : 0.0f;
  }
}

/// Adds the columns from `first` on that are in shared memory.
template <typename Codec, int kRows>
__device__ __forceinline__ void addSlice(const Shared<kRows>& shared, const Product& p, int64_t weightRow, int outputs,
                                         int first, float (&sums)[kWarpOutputs][kRows]) {
  constexpr int kColumns = Codec::kColumns;
  const int columns = min(kSlice, p.inputs - first);
  for (int group = laneOf(); group * kColumns < columns; group += kWarp) {
#pragma unroll
    for (int output = 0; output < kWarpOutputs; ++output) {
      if (output >= outputs) break;
      float weights[kColumns];
      Codec::load(p.weight + (weightRow + output) * p.rowBytes, first / kColumns + group, weights);
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
#pragma unroll
        for (int row = 0; row < kRows; ++row)
          sums[output][row] = fmaf(weights[i], shared.x[row][padded(group * kColumns + i)], sums[output][row]);
      }
    }
  }
}

template <typename Codec, int kRows>
__global__ void __launch_bounds__(kThreads) productKernel(const Product p) {
  auto& shared = sharedMemory<Shared<kRows>>();
  const RowTile tile = p.tile(blockIdx.x, kRows);
  if (tile.count <= 0) return;
  for (int64_t block = blockIdx.y; block * kBlockOutputs < p.outputs; block += gridDim.y) {
    const int first = static_cast<int>(block) * kBlockOutputs + warpOf() * kWarpOutputs;
    const int outputs = max(0, min(kWarpOutputs, p.outputs - first));
    float sums[kWarpOutputs][kRows] = {};
    for (int column = 0; column < p.inputs; column += kSlice) {
      loadSlice(shared, p, tile, column);
      __syncthreads();
      addSlice<Codec>(shared, p, static_cast<int64_t>(tile.expert) * p.outputs + first, outputs, column, sums);
      __syncthreads();
    }
#pragma unroll
    for (int output = 0; output < kWarpOutputs; ++output) {
#pragma unroll
      for (int row = 0; row < kRows; ++row) {
        const float sum = warpSum(sums[output][row]);
        if (laneOf() == 0 && output < outputs && row < tile.count)
          p.write(tile.expert, tile.first + row, first + output, sum);
      }
    }
  }
}

template <typename Codec, int kRows>
PagodaStatus launchProduct(PagodaDevice* device, const Product& p, const char* name, PagodaError* error) {
  const int64_t tiles = p.tiles != nullptr ? p.maxTiles : ceilDivide(p.slots, kRows);
  const int64_t blocks = ceilDivide(p.outputs, kBlockOutputs);
  const LaunchShape shape = {dim3(static_cast<unsigned>(tiles), blocks < 65535 ? blocks : 65535), dim3(kThreads),
                             sizeof(Shared<kRows>)};
  return check(launch(productKernel<Codec, kRows>, shape, device->stream, p), name, error);
}

}  // namespace

int32_t tileRows(PagodaDtype, int32_t slots) { return slots == 1 ? 1 : kManyRows; }

PagodaStatus multiply(PagodaDevice* device, PagodaDtype dtype, const Product& product, const char* name,
                      PagodaError* error) {
  return withCodec(dtype, [&](auto codec) {
    using Codec = decltype(codec);
    if (tileRows(dtype, product.slots) == 1) return launchProduct<Codec, 1>(device, product, name, error);
    return launchProduct<Codec, kManyRows>(device, product, name, error);
  });
}

}  // namespace pagoda::cuda
