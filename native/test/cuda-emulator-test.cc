// The emulator itself: what it must notice, and that its warps and tensor cores compute what PTX says.
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

}  // namespace
}  // namespace pagoda::test

int main() {
  using namespace pagoda::test;
  testDeadlocks();
  testShapes();
  testSharedMemory();
  testCopies();
  testMma();
  return finish();
}
