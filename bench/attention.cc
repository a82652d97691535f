// How near does attention come to the limits of the machine? Times decode and prefill of one layer with the heads of a
// Llama-3.2-1B (headDim 64; 128 as in larger models) for each type of the KV cache, and sets them beside the read
// bandwidth and the arithmetic peak of the same minute.
//
//   cmake -S . -B build/bench -DPAGODA_BUILD_ADDON=OFF -DPAGODA_BUILD_BENCH=ON && cmake --build build/bench -j --target
//   attention-bench build/bench/attention-bench [threads] [f32|bf16|int8...]
//
// Bytes are those of K and V, each counted once a request, however often a kernel reads them. Where the contexts of a
// batch together exceed kPoolBytes, requests share blocks, still much more than the caches hold. Each figure is the
// best of several runs.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "cpu/backend.h"
#include "machine-limits.h"

namespace pagoda::PAGODA_ISA {
namespace {

constexpr int32_t kHeads = 32;
constexpr int32_t kKvHeads = 8;
constexpr int32_t kBlockSize = 16;
constexpr uint64_t kPoolBytes = 512u << 20;

struct KvType {
  const char* name;
  PagodaDtype dtype;
};
constexpr KvType kTypes[] = {{"f32", PAGODA_F32}, {"bf16", PAGODA_BF16}, {"int8", PAGODA_INT8}};

// `requests` requests of `tokens` tokens each, the last ones of `context`.
struct Load {
  int32_t requests;
  int32_t tokens;
  int32_t context;
};
constexpr Load kLoads[] = {{1, 1, 512},  {1, 1, 4096},  {1, 1, 16384},  {8, 1, 512},   {8, 1, 4096},   {8, 1, 16384},
                           {32, 1, 512}, {32, 1, 4096}, {32, 1, 16384}, {1, 512, 512}, {1, 512, 4096}, {1, 512, 16384}};

std::vector<float> noise(size_t n) {
  std::vector<float> values(n);
  uint32_t state = 1;
  for (float& value : values) {
    state = state * 1664525u + 1013904223u;
    value = static_cast<float>(state >> 8) / (1 << 23) - 1.0f;
  }
  return values;
}

PagodaTensor tensor(std::vector<float>& values, int32_t rows, int32_t width) {
  return {.data = values.data(), .rows = rows, .width = width, .rowStride = width, .dtype = PAGODA_F32};
}

class Bench {
 public:
  explicit Bench(int threads) : threads_(threads) {
    const PagodaDeviceOptions options = {.device = 0, .threads = threads, .isa = nullptr};
    check(api_->openDevice(&options, &device_, &error_));
    PagodaDeviceInfo info;
    check(api_->deviceInfo(device_, &info, &error_));
    std::printf("%s, %s, %d threads\n\n", info.name, info.isa, info.threads);
    std::printf(
        "| KV cache | headDim | requests x tokens | context | ms | GB/s | of bandwidth | GFLOP/s | of peak |\n");
    std::printf("|---|---|---|---|---|---|---|---|---|\n");
  }
  ~Bench() { api_->closeDevice(device_); }

  void run(const KvType& type, int32_t headDim) {
    PagodaKvCache cache = createCache(type.dtype, headDim);
    for (const Load& load : kLoads) {
      const Limits limits(threads_);
      const double time = timeOf(cache, load);
      const double bytes = static_cast<double>(load.requests) * load.context / kBlockSize * blockBytes_;
      const double visible = load.requests * (load.tokens * (load.context - (load.tokens - 1) / 2.0));
      const double operations = 4.0 * kHeads * headDim * visible;
      const double peak = type.dtype == PAGODA_F32 ? limits.f32 : limits.bf16;
      std::printf("| %s | %d | %d x %d | %d | %.3f | %.1f | %.0f %% | %.0f | %.0f %% |\n", type.name, headDim,
                  load.requests, load.tokens, load.context, time * 1e3, bytes / time / 1e9,
                  100 * bytes / time / limits.bandwidth, operations / time / 1e9, 100 * operations / time / peak);
      std::fflush(stdout);
    }
    api_->release(device_, cache.data);
  }

 private:
  void check(PagodaStatus status) {
    if (status == PAGODA_OK) return;
    std::fprintf(stderr, "%s\n", error_.message);
    std::exit(1);
  }

  // A cache of kPoolBytes, every slot written.
  PagodaKvCache createCache(PagodaDtype dtype, int32_t headDim) {
    PagodaKvCache cache = {nullptr, 0, kBlockSize, kKvHeads, headDim, dtype};
    check(api_->kvBlockBytes(device_, &cache, &blockBytes_, &error_));
    cache.numBlocks = static_cast<int32_t>(kPoolBytes / blockBytes_);
    check(api_->allocate(device_, cache.numBlocks * blockBytes_, &cache.data, &error_));
    constexpr int32_t kTokens = 64 * kBlockSize;
    std::vector<float> rows = noise(static_cast<size_t>(kTokens) * kKvHeads * headDim);
    const PagodaTensor source = tensor(rows, kTokens, kKvHeads * headDim);
    std::vector<int32_t> slots(kTokens);
    for (int32_t first = 0; first < cache.numBlocks * kBlockSize; first += kTokens) {
      for (int32_t i = 0; i < kTokens; ++i) {
        slots[i] = first + i < cache.numBlocks * kBlockSize ? first + i : -1;
      }
      const PagodaCacheWrite op = {source, source, cache, slots.data()};
      check(api_->cacheWrite(device_, &op, &error_));
    }
    return cache;
  }

  double timeOf(const PagodaKvCache& cache, const Load& load) {
    const int32_t rows = load.requests * load.tokens, width = kHeads * cache.headDim;
    const int32_t maxBlocks = load.context / kBlockSize;
    std::vector<float> query = noise(static_cast<size_t>(rows) * width), out(query.size());
    std::vector<int32_t> starts = {0}, lengths(load.requests, load.context);
    std::vector<int32_t> table(static_cast<size_t>(load.requests) * maxBlocks);
    for (int32_t r = 0; r < load.requests; ++r) starts.push_back((r + 1) * load.tokens);
    for (size_t i = 0; i < table.size(); ++i) {
      table[i] = static_cast<int32_t>(i * 7919 % cache.numBlocks);  // scattered
    }
    const PagodaAttention op = {
        .out = tensor(out, rows, width),
        .query = tensor(query, rows, width),
        .cache = cache,
        .batch = {load.requests, rows, maxBlocks, load.tokens, load.context, starts.data(), lengths.data(),
                  table.data()},
        .numHeads = kHeads,
        .scale = 0.125f,
        .slidingWindow = 0,
        .softcap = 0,
    };
    constexpr int kFewest = 3, kMost = 40;
    constexpr double kLongEnough = 0.5;
    double best = 1e9, total = 0;
    for (int run = 0; run < kFewest || (run < kMost && total < kLongEnough); ++run) {
      const double start = seconds();
      check(api_->attention(device_, &op, &error_));
      const double time = seconds() - start;
      best = std::min(best, time);
      total += time;
    }
    return best;
  }

  const PagodaBackend* api_ = pagodaCpuBackend();
  PagodaDevice* device_ = nullptr;
  PagodaError error_ = {};
  uint64_t blockBytes_ = 0;
  int threads_;
};

}  // namespace

int benchMain(int argc, char** argv) {
  const int threads = argc > 1 ? std::max(1, std::atoi(argv[1])) : 2;
  Bench bench(threads);
  for (const KvType& type : kTypes) {
    const auto isWanted = [&](const char* name) { return std::strcmp(name, type.name) == 0; };
    if (argc > 2 && std::none_of(argv + 2, argv + argc, isWanted)) continue;
    for (const int32_t headDim : {64, 128}) bench.run(type, headDim);
  }
  return 0;
}

}  // namespace pagoda::PAGODA_ISA

int main(int argc, char** argv) { return pagoda::PAGODA_ISA::benchMain(argc, argv); }
