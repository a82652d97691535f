// A kernel that forgets a barrier: ThreadSanitizer must report it, or cuda-race-test would prove nothing.
#include <launch.cuh>

namespace {

using pagoda::cuda::sharedMemory;

constexpr int kThreads = 64;

struct Shared {
  int values[kThreads];
};

struct Parameters {
  int* out;
};

void reverseKernel(const Parameters p) {
  auto& shared = sharedMemory<Shared>();
  shared.values[threadIdx.x] = static_cast<int>(threadIdx.x);
  p.out[threadIdx.x] = shared.values[kThreads - 1 - threadIdx.x];
}

}  // namespace

int main() {
  int out[kThreads];
  pagoda::cuda::launch(reverseKernel, {dim3(1), dim3(kThreads), sizeof(Shared)}, nullptr, Parameters{out});
  return 0;
}
