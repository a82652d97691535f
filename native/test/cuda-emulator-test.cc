// The emulator itself: what it must notice, and that its warps and tensor cores compute what PTX says.
#include <hopper.cuh>
#include <launch.cuh>
#include <ptx.cuh>
#include <vector>

#include "check.h"

namespace pagoda::test {
namespace {

using namespace cuda;

struct Parameters {
  float* out;
  const float* in;
};

LaunchShape shapeOf(unsigned blocks, unsigned threads, size_t sharedBytes = 0) {
  return {dim3(blocks), dim3(threads), sharedBytes};
}

void halfWaitsKernel(const Parameters) {
  if (threadIdx.x < 32) barrierSync(1, 64);
}

void unevenWarpKernel(const Parameters) {
  if (threadIdx.x == 3) return;
  __shfl_xor_sync(0xffffffffu, 1, 1);
}

void testDeadlocks() {
  section("threads that wait for others that do not come");
  CHECK(launch(halfWaitsKernel, shapeOf(2, 64), nullptr, Parameters{}) == cudaErrorLaunchFailure, "barrier");
  CHECK(launch(unevenWarpKernel, shapeOf(1, 32), nullptr, Parameters{}) == cudaErrorLaunchFailure, "shuffle");
  CHECK(cudaGetLastError() == cudaErrorLaunchFailure, "the error is kept");
  CHECK(cudaGetLastError() == cudaSuccess, "until it has been read");
}

void testShapes() {
  section("launches that a GPU refuses");
  CHECK(launch(unevenWarpKernel, shapeOf(0, 32), nullptr, Parameters{}) == cudaErrorInvalidConfiguration, "no block");
  CHECK(launch(unevenWarpKernel, shapeOf(1, 2048), nullptr, Parameters{}) == cudaErrorInvalidConfiguration, "threads");
  CHECK(launch(unevenWarpKernel, shapeOf(1, 32, 300 << 10), nullptr, Parameters{}) == cudaErrorInvalidConfiguration,
        "shared memory");
  cudaGetLastError();
}

void reverseKernel(const Parameters p) {
  float* shared = &sharedMemory<float>();
  const float before = shared[threadIdx.x];
  __syncthreads();
  shared[threadIdx.x] = p.in[threadIdx.x];
  __syncthreads();
  p.out[threadIdx.x] = before != before ? shared[blockDim.x - 1 - threadIdx.x] : 0.0f;
}

void testSharedMemory() {
  section("shared memory is NaN at the start of every block, and barriers work");
  std::vector<float> in(96), out(96);
  for (int i = 0; i < 96; ++i) in[i] = static_cast<float>(i + 1);
  const Parameters p = {out.data(), in.data()};
  CHECK(launch(reverseKernel, shapeOf(3, 96, 96 * sizeof(float)), nullptr, p) == cudaSuccess, "launch");
  for (int i = 0; i < 96; ++i) CHECK(out[i] == in[95 - i], "[%d] %g", i, out[i]);
}

void lateCopyKernel(const Parameters p) {
  if (threadIdx.x > 0) return;
  float* shared = &sharedMemory<float>();
  copyAsync16(shared, p.in, 8);
  commitCopies();
  p.out[0] = shared[0];
  waitForCopies<1>();
  p.out[1] = shared[0];
  waitForCopies<0>();
  for (int i = 0; i < 4; ++i) p.out[2 + i] = shared[i];
}

void testCopies() {
  section("asynchronous copies arrive when they are waited for");
  alignas(16) const float in[4] = {1, 2, 3, 4};
  float out[6];
  launch(lateCopyKernel, shapeOf(1, 32, 64), nullptr, Parameters{out, in});
  CHECK(out[0] != out[0] && out[1] != out[1], "%g %g came too early", out[0], out[1]);
  CHECK(out[2] == 1 && out[3] == 2 && out[4] == 0 && out[5] == 0, "%g %g %g %g", out[2], out[3], out[4], out[5]);
}

/// out [16, 8] = a [16, 16] * b [8, 16]^T, b through ldmatrix; a in [16, 16], b behind it.
void mmaKernel(const Parameters p) {
  auto* shared = &sharedMemory<uint16_t>();
  for (int i = threadIdx.x; i < 24 * 16; i += 32) shared[i] = toBf16(p.in[i]);
  __syncthreads();
  const int lane = threadIdx.x, matrix = lane / 8, line = lane % 8;
  uint32_t a[4], b[4];
  ldmatrix(a, shared + (8 * (matrix % 2) + line) * 16 + 8 * (matrix / 2));
  ldmatrix(b, shared + (16 + line) * 16 + 8 * (matrix % 2));
  const uint32_t columns[2] = {b[0], b[1]};
  float d[4] = {};
  mmaBf16(d, a, columns);
  for (int i = 0; i < 4; ++i) p.out[(lane / 4 + 8 * (i / 2)) * 8 + 2 * (lane % 4) + i % 2] = d[i];
}

void testMma() {
  section("ldmatrix and mma");
  std::vector<float> in(24 * 16), out(16 * 8);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>(static_cast<int>(i * 7 % 31) - 15);
  launch(mmaKernel, shapeOf(1, 32, 24 * 16 * 2), nullptr, Parameters{out.data(), in.data()});
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 8; ++column) {
      float sum = 0;
      for (int k = 0; k < 16; ++k) sum += in[row * 16 + k] * in[(16 + column) * 16 + k];
      CHECK(out[row * 8 + column] == sum, "[%d, %d] %g but %g", row, column, out[row * 8 + column], sum);
    }
  }
}

// ---- sm_90a ---------------------------------------------------------------------------------------------------------

struct BoxParameters {
  TensorMap map;
  float* out;
  int column, plane, row;
  uint32_t announced;
};

struct BoxShared {
  alignas(kSwizzleBytes) uint16_t box[16][kTileColumns];
  PhaseBarrier barrier;
};

/// out: what one element was before the wait and after it, then the box as it lies in shared memory.
void boxKernel(const BoxParameters p) {
  auto& shared = sharedMemory<BoxShared>();
  if (threadIdx.x == 0) initialize(shared.barrier, 1);
  __syncthreads();
  float* out = p.out + blockIdx.x * (2 + 16 * kTileColumns);
  if (threadIdx.x == 0) {
    arriveAndExpect(shared.barrier, p.announced);
    copyBox(shared.box, p.map, shared.barrier, p.column, p.plane, p.row);
    out[0] = fromHalf(shared.box[0][0]);
  }
  waitForPhase(shared.barrier, 0);
  if (threadIdx.x > 0) return;
  out[1] = fromHalf(shared.box[0][0]);
  for (int i = 0; i < 16 * kTileColumns; ++i) out[2 + i] = fromHalf(shared.box[i / kTileColumns][i % kTileColumns]);
}

constexpr int kBoxColumns = 80, kBoxPlanes = 2, kBoxRows = 20;

/// Halves that count up, so that each element is known by its value.
std::vector<uint16_t> countedHalves() {
  std::vector<uint16_t> values(kBoxRows * kBoxPlanes * kBoxColumns);
  for (size_t i = 0; i < values.size(); ++i) values[i] = toHalf(static_cast<float>(i % 2039 + 1));
  return values;
}

BoxParameters boxParameters(const std::vector<uint16_t>& values, float* out) {
  BoxParameters p = {};
  const cudaError_t error = encodeTensorMap(
      findTensorMapEncoder(), &p.map,
      {values.data(), kBoxColumns, kBoxPlanes, kBoxRows, 2 * kBoxColumns, 2 * kBoxColumns * kBoxPlanes}, 16);
  CHECK(error == cudaSuccess, "the map is refused");
  p.out = out;
  p.announced = 16 * kTileRowBytes;
  return p;
}

/// out [blocks, box]: each block of a cluster of two brings half of a box to both, and waits for both halves and for
/// one thread of each block.
void clusterKernel(const BoxParameters p) {
  constexpr int kHalf = 8;
  struct Halves {
    alignas(kSwizzleBytes) uint16_t box[2][kHalf][kTileColumns];
    PhaseBarrier boxes;
    PhaseBarrier blocks;
  };
  auto& shared = sharedMemory<Halves>();
  const int rank = clusterRank();
  if (threadIdx.x == 0) {
    initialize(shared.boxes, 1);
    initialize(shared.blocks, 2);
  }
  syncCluster();
  if (threadIdx.x == 0) {
    arriveAndExpect(shared.boxes, 2 * kHalf * kTileRowBytes);
    copyBoxToCluster(shared.box[rank], p.map, shared.boxes, p.column, p.plane, p.row + kHalf * rank, 3);
  }
  waitForPhase(shared.boxes, 0);
  if (threadIdx.x < 2) arriveAt(shared.blocks, static_cast<int>(threadIdx.x));
  waitForPhase(shared.blocks, 0);
  float* out = p.out + blockIdx.x * 2 * kHalf * kTileColumns;
  for (int i = threadIdx.x; i < 2 * kHalf * kTileColumns; i += 32) out[i] = fromHalf((&shared.box[0][0][0])[i]);
  syncCluster();
}

void loneBlockKernel(const Parameters) {
  if (clusterRank() == 0) return;
  PhaseBarrier& barrier = sharedMemory<PhaseBarrier>();
  if (threadIdx.x == 0) initialize(barrier, 2);
  __syncthreads();
  if (threadIdx.x == 0) arrive(barrier);
  waitForPhase(barrier, 0);
}

void testBoxes() {
  section("boxes: swizzled, zeros outside, and there when their bytes have been waited for");
  const std::vector<uint16_t> values = countedHalves();
  constexpr int kSize = 2 + 16 * kTileColumns;
  std::vector<float> out(2 * kSize);
  BoxParameters p = boxParameters(values, out.data());
  p.column = 64, p.plane = 1, p.row = 8;
  CHECK(launch(boxKernel, shapeOf(2, 32, sizeof(BoxShared)), nullptr, p) == cudaSuccess, "launch");
  CHECK(out[0] != out[0], "%g came too early", out[0]);
  CHECK(out[kSize] == out[1], "%g: other blocks have it at once", out[kSize]);
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < kTileColumns; ++column) {
      const int chunk = column / 8 ^ row % 8, at = 64 + column, from = 8 + row;
      const int index = (from * kBoxPlanes + 1) * kBoxColumns + at;
      const float expected = at < kBoxColumns && from < kBoxRows ? static_cast<float>(index % 2039 + 1) : 0.0f;
      const float actual = out[2 + row * kTileColumns + 8 * chunk + column % 8];
      CHECK(actual == expected, "[%d, %d] %g but %g", row, column, actual, expected);
    }
  }
}

void testAnnouncedBytes() {
  section("a phase ends with its last byte");
  const std::vector<uint16_t> values = countedHalves();
  std::vector<float> out(2 + 16 * kTileColumns);
  BoxParameters p = boxParameters(values, out.data());
  p.announced += 16;
  CHECK(launch(boxKernel, shapeOf(1, 32, sizeof(BoxShared)), nullptr, p) == cudaErrorLaunchFailure, "too many");
  cudaGetLastError();
  BoxParameters odd = p;
  CHECK(encodeTensorMap(findTensorMapEncoder(), &odd.map, {values.data(), 8, 1, 8, 24, 24}, 8) == cudaErrorInvalidValue,
        "stride");
  CHECK(encodeTensorMap(findTensorMapEncoder(), &odd.map, {values.data() + 1, 8, 1, 8, 16, 16}, 8) ==
            cudaErrorInvalidValue,
        "address");
}

constexpr int kProductRows = 64, kProductColumns = 16;

struct ProductShared {
  alignas(kSwizzleBytes) uint16_t a[kProductRows][kTileColumns];
  alignas(kSwizzleBytes) uint16_t b[kProductColumns][kTileColumns];
};

/// out [64, 16] = a [64, 64] * b [16, 64]^T; then the first result of each thread before it was waited for.
void productKernel(const Parameters p) {
  auto& shared = sharedMemory<ProductShared>();
  for (int i = threadIdx.x; i < (kProductRows + kProductColumns) * kTileColumns; i += kWarpgroup) {
    const int row = i / kTileColumns, column = i % kTileColumns, place = 8 * (column / 8 ^ row % 8) + column % 8;
    (row < kProductRows ? shared.a[row] : shared.b[row - kProductRows])[place] = toBf16(p.in[i]);
  }
  publishShared();
  __syncthreads();
  float d[8] = {-1, -1, -1, -1, -1, -1, -1, -1};
  const uint64_t a = describeMatrix(sharedAddress(shared.a)), b = describeMatrix(sharedAddress(shared.b));
  beginProducts();
  for (int k = 0; k < kTileColumns; k += kMatrixStep) multiplyBf16Async(d, advance(a, k), advance(b, k), k > 0);
  commitProducts();
  waitForProducts<1>();
  p.out[kProductRows * kProductColumns + threadIdx.x] = d[0];
  waitForProducts<0>();
  for (int i = 0; i < 8; ++i) p.out[resultRow(threadIdx.x, i) * kProductColumns + resultColumn(threadIdx.x, i)] = d[i];
}

void testProducts() {
  section("wgmma");
  std::vector<float> in((kProductRows + kProductColumns) * kTileColumns);
  std::vector<float> out(kProductRows * kProductColumns + kWarpgroup);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>(static_cast<int>(i * 7 % 31) - 15);
  const Parameters p = {out.data(), in.data()};
  CHECK(launch(productKernel, shapeOf(1, kWarpgroup, sizeof(ProductShared)), nullptr, p) == cudaSuccess, "launch");
  for (int row = 0; row < kProductRows; ++row) {
    for (int column = 0; column < kProductColumns; ++column) {
      float sum = 0;
      for (int k = 0; k < kTileColumns; ++k)
        sum += in[row * kTileColumns + k] * in[(kProductRows + column) * kTileColumns + k];
      const float actual = out[row * kProductColumns + column];
      CHECK(actual == sum, "[%d, %d] %g but %g", row, column, actual, sum);
    }
  }
  for (int i = 0; i < kWarpgroup; ++i)
    CHECK(out[kProductRows * kProductColumns + i] == -1, "thread %d's came too early", i);
}

struct TransposedShared {
  alignas(kSwizzleBytes) uint16_t a[kProductRows][kTileColumns];
  alignas(kSwizzleBytes) uint16_t b[256 / kTileColumns][kMatrixStep][kTileColumns];
};

/// out [64, 256] = a [64, 16] * b [16, 256] twice: a in shared memory, then in registers.
void transposedKernel(const Parameters p) {
  auto& shared = sharedMemory<TransposedShared>();
  const float* b = p.in + kProductRows * kMatrixStep;
  const int thread = threadIdx.x;
  for (int i = thread; i < kProductRows * kMatrixStep; i += kWarpgroup) {
    const int row = i / kMatrixStep, column = i % kMatrixStep;
    shared.a[row][8 * (column / 8 ^ row % 8) + column % 8] = toBf16(p.in[i]);
  }
  for (int i = thread; i < kMatrixStep * 256; i += kWarpgroup) {
    const int k = i / 256, column = i % 256;
    shared.b[column / 64][k][8 * (column % 64 / 8 ^ k % 8) + column % 8] = toBf16(b[i]);
  }
  publishShared();
  __syncthreads();
  uint32_t held[4];
  for (int i = 0; i < 4; ++i) {
    const float* from =
        p.in + (16 * (thread / 32) + thread % 32 / 4 + 8 * (i % 2)) * kMatrixStep + 8 * (i / 2) + 2 * (thread % 4);
    held[i] = packBf16(from[0], from[1]);
  }
  float d[2][128];
  const uint64_t columns = describeTransposed(sharedAddress(shared.b), kMatrixStep);
  beginProducts();
  multiplyTransposedAsync(d[0], describeMatrix(sharedAddress(shared.a)), columns, false);
  multiplyTransposedAsync(d[1], held, columns, false);
  commitProducts();
  waitForProducts<0>();
  for (int twice = 0; twice < 2; ++twice) {
    float* out = p.out + twice * kProductRows * 256;
    for (int i = 0; i < 128; ++i) out[resultRow(thread, i) * 256 + resultColumn(thread, i)] = d[twice][i];
  }
}

void testTransposedProducts() {
  section("wgmma with a transposed operand, the other one in shared memory or in registers");
  std::vector<float> in((kProductRows + 256) * kMatrixStep), out(2 * kProductRows * 256);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>(static_cast<int>(i * 7 % 31) - 15);
  const Parameters p = {out.data(), in.data()};
  CHECK(launch(transposedKernel, shapeOf(1, kWarpgroup, sizeof(TransposedShared)), nullptr, p) == cudaSuccess,
        "launch");
  for (int row = 0; row < kProductRows; ++row) {
    for (int column = 0; column < 256; ++column) {
      float sum = 0;
      for (int k = 0; k < kMatrixStep; ++k)
        sum += in[row * kMatrixStep + k] * in[kProductRows * kMatrixStep + k * 256 + column];
      for (int twice = 0; twice < 2; ++twice) {
        const float actual = out[(twice * kProductRows + row) * 256 + column];
        CHECK(actual == sum, "[%d, %d] %g but %g", row, column, actual, sum);
      }
    }
  }
}

void testClusters() {
  section("clusters: boxes come to all blocks, whose barriers can be reached");
  const std::vector<uint16_t> values = countedHalves();
  constexpr int kBlocks = 4, kSize = 16 * kTileColumns;
  std::vector<float> out(kBlocks * kSize);
  BoxParameters p = boxParameters(values, out.data());
  CHECK(encodeTensorMap(findTensorMapEncoder(), &p.map, Planes(p.map.planes), 8) == cudaSuccess, "the map is refused");
  p.plane = 1;
  LaunchShape shape = shapeOf(kBlocks, 32, kSize * sizeof(uint16_t) + kSwizzleBytes);
  shape.cluster = 2;
  CHECK(launch(clusterKernel, shape, nullptr, p) == cudaSuccess, "launch");
  for (int block = 0; block < kBlocks; ++block) {
    for (int row = 0; row < 16; ++row) {
      for (int column = 0; column < kTileColumns; ++column) {
        const float expected = fromHalf(values[(row * kBoxPlanes + 1) * kBoxColumns + column]);
        const int stored = row * kTileColumns + (column / 8 ^ row % 8) * 8 + column % 8;
        CHECK(out[block * kSize + stored] == expected, "block %d, row %d, column %d", block, row, column);
      }
    }
  }
  shape.sharedBytes = sizeof(PhaseBarrier);
  CHECK(launch(loneBlockKernel, shape, nullptr, Parameters{}) == cudaErrorLaunchFailure, "a block that nobody answers");
  shape.grid = dim3(3);
  CHECK(launch(loneBlockKernel, shape, nullptr, Parameters{}) == cudaErrorInvalidConfiguration, "half a cluster");
  cudaGetLastError();
}

}  // namespace
}  // namespace pagoda::test

int main() {
  using namespace pagoda::test;
  testDeadlocks();
  testShapes();
  testSharedMemory();
  testCopies();
  testMma();
  testBoxes();
  testClusters();
  testAnnouncedBytes();
  testProducts();
  testTransposedProducts();
  return finish();
}
