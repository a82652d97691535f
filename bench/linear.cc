// How near do linears come to the limits of the machine? Times the linears of a SmolLM2-135M and a Llama-3.2-1B for
// each type of weights and several numbers of rows, and sets them beside the read bandwidth, the bf16 and the int8 peak
// of the same minute.
//
//   cmake -S . -B build/bench -DPAGODA_BUILD_ADDON=OFF -DPAGODA_BUILD_BENCH=ON
//   cmake --build build/bench -j --target linear-bench && build/bench/linear-bench [threads] [type...]
//
// Weights are larger than the caches together and read in turn. Each figure is the best of several short runs, and the
// limits are measured again before each shape, since other loads of a machine come and go.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "block-formats.h"
#include "cpu/backend.h"
#include "cpu/half.h"
#include "cpu/simd.h"
#include "machine-limits.h"

namespace pagoda::PAGODA_ISA {
namespace {

constexpr const char* kNames[] = {"f32",  "bf16", "f16",  "q8_0", "q4_0", "q4_1", "q5_0",
                                  "q5_1", "q4_k", "q5_k", "q6_k", "int8", "mxfp4"};

struct Shape {
  int32_t outputs;
  int32_t inputs;
};
constexpr Shape kShapes[] = {{960, 576},   {576, 576},   {3072, 576},  {576, 1536},
                             {2048, 2048}, {8192, 2048}, {2048, 8192}, {128256, 2048}};
constexpr int32_t kRows[] = {1, 8, 32, 512};

class Bench {
 public:
  explicit Bench(int threads) : threads_(threads) {
    const PagodaDeviceOptions options = {.device = 0, .threads = threads, .isa = nullptr};
    check(api_->openDevice(&options, &device_, &error_));
    PagodaDeviceInfo info;
    check(api_->deviceInfo(device_, &info, &error_));
    std::printf("%s, %s, %d threads\n\n", info.name, info.isa, info.threads);
    std::printf("| weights | outputs x inputs | rows | ms | GOP/s | of peak | GB/s | of bandwidth |\n");
    std::printf("|---|---|---|---|---|---|---|---|\n");
  }
  ~Bench() { api_->closeDevice(device_); }

  void run(PagodaDtype dtype, Shape shape) {
    const Limits limits(threads_);
    PagodaWeight weight = {nullptr, PAGODA_MATRIX, shape.outputs, shape.inputs, dtype};
    uint64_t bytes = 0;
    check(api_->weightBytes(device_, &weight, &bytes, &error_));
    const std::vector<void*> copies = prepare(weight, bytes);
    for (const int32_t rows : kRows) {
      const double time = timeOf(weight, copies, rows);
      const double operations = 2.0 * rows * shape.outputs * shape.inputs / time;
      const double most = isQuantized(dtype) ? limits.integers : limits.bf16;
      std::printf("| %s | %d x %d | %d | %.3f | %.0f | %.0f %% | %.1f | %.0f %% |\n", kNames[dtype], shape.outputs,
                  shape.inputs, rows, time * 1e3, operations / 1e9, 100 * operations / most, bytes / time / 1e9,
                  100 * bytes / time / limits.bandwidth);
      std::fflush(stdout);
    }
    for (void* copy : copies) api_->release(device_, copy);
  }

 private:
  void check(PagodaStatus status) {
    if (status == PAGODA_OK) return;
    std::fprintf(stderr, "%s\n", error_.message);
    std::exit(1);
  }

  // As many copies as exceed the caches.
  std::vector<void*> prepare(PagodaWeight weight, uint64_t bytes) {
    constexpr uint64_t kBeyondCaches = 256u << 20;
    std::vector<uint8_t> source(static_cast<size_t>(weight.rows) * rowBytes(weight.dtype, weight.cols));
    for (size_t i = 0; i < source.size(); ++i) source[i] = static_cast<uint8_t>(i * 2654435761u >> 24) & 0x3f;
    std::vector<void*> copies(std::max<uint64_t>(1, kBeyondCaches / bytes));
    for (void*& copy : copies) {
      check(api_->allocate(device_, bytes, &copy, &error_));
      weight.data = copy;
      check(api_->prepareWeight(device_, &weight, 0, weight.rows, source.data(), weight.dtype, &error_));
    }
    return copies;
  }

  double timeOf(PagodaWeight weight, const std::vector<void*>& copies, int32_t rows) {
    std::vector<float> x(static_cast<size_t>(rows) * weight.cols);
    std::vector<float> out(static_cast<size_t>(rows) * weight.rows);
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 251) / 251 - 0.5f;
    double best = 1e9;
    const int runs = rows > 32 ? 5 : 24;
    for (int run = 0; run < runs; ++run) {
      weight.data = copies[run % copies.size()];
      const PagodaLinear op = {{out.data(), rows, weight.rows, weight.rows, PAGODA_F32},
                               {x.data(), rows, weight.cols, weight.cols, PAGODA_F32},
                               weight,
                               {}};
      const double start = seconds();
      check(api_->linear(device_, &op, &error_));
      best = std::min(best, seconds() - start);
    }
    return best;
  }

  const PagodaBackend* api_ = pagodaCpuBackend();
  PagodaDevice* device_ = nullptr;
  PagodaError error_ = {};
  int threads_;
};

}  // namespace

int benchMain(int argc, char** argv) {
  const int threads = argc > 1 ? std::max(1, std::atoi(argv[1])) : 2;
  Bench bench(threads);
  for (int dtype = PAGODA_F32; dtype <= PAGODA_MXFP4; ++dtype) {
    const auto isWanted = [&](const char* name) { return std::strcmp(name, kNames[dtype]) == 0; };
    if (dtype == PAGODA_F16 || dtype == PAGODA_INT8) continue;
    if (argc > 2 && std::none_of(argv + 2, argv + argc, isWanted)) continue;
    for (const Shape shape : kShapes) bench.run(static_cast<PagodaDtype>(dtype), shape);
  }
  return 0;
}

}  // namespace pagoda::PAGODA_ISA

int main(int argc, char** argv) { return pagoda::PAGODA_ISA::benchMain(argc, argv); }
