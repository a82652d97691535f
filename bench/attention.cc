// How near does attention come to the limits of the machine? Times decode and prefill of one layer with the heads of a
// Llama-3.2-1B (headDim 64; 128 as in larger models) for each type of the KV cache, and sets them beside the read
// bandwidth and the arithmetic peak of the same minute.
//
//   cmake -S . -B build/bench -DPAGODA_BUILD_ADDON=OFF -DPAGODA_BUILD_BENCH=ON
//   cmake --build build/bench -j --target attention-bench && build/bench/attention-bench [threads] [f32|bf16|int8...]
//
// Bytes are those of K and V, each counted once a request, however often a kernel reads them. Where the contexts of a
// batch together exceed kPoolBytes, requests have blocks in common, still much more than the caches hold, but no split
// of their keys. Each figure is the best of several runs.
//
// And what does it bring that requests with a common prefix read it together? The second table times requests that
// decode over one prefix (their own tokens are kOwnTokens more), in turn with block tables that have the blocks of each
// split in another order: the same blocks, but not the same splits, so each request reads them for itself. The last
// lines say how long it takes, in each attention op, to find what is shared and to make the schedule.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "cpu/attention-scheduler.h"
#include "cpu/backend.h"
#include "machine-limits.h"

namespace pagoda::PAGODA_ISA {
namespace {

constexpr int32_t kHeads = 32;
constexpr int32_t kKvHeads = 8;
constexpr int32_t kBlockSize = 16;
constexpr uint64_t kPoolBytes = 512u << 20;
constexpr int32_t kSplitBlocks = kSplitKeys / kBlockSize;
constexpr int32_t kOwnTokens = 64;

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

// `requests` requests that decode over a prefix of `prefix` tokens.
struct SharedLoad {
  int32_t requests;
  int32_t prefix;
};
constexpr SharedLoad kSharedLoads[] = {{8, 4096}, {8, 16384}, {32, 1024}, {32, 4096}, {32, 16384}};

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

// The op of a load, with what it points to.
struct Batch {
  Batch(const PagodaKvCache& cache, const Load& load, const std::vector<int32_t>& table)
      : query(noise(static_cast<size_t>(load.requests) * load.tokens * kHeads * cache.headDim)),
        out(query.size()),
        lengths(load.requests, load.context) {
    const int32_t rows = load.requests * load.tokens, width = kHeads * cache.headDim;
    for (int32_t r = 0; r <= load.requests; ++r) starts.push_back(r * load.tokens);
    op = {
        .out = tensor(out, rows, width),
        .query = tensor(query, rows, width),
        .cache = cache,
        .batch = {load.requests, rows, load.context / kBlockSize, load.tokens, load.context, starts.data(),
                  lengths.data(), table.data()},
        .numHeads = kHeads,
        .scale = 0.125f,
        .slidingWindow = 0,
        .softcap = 0,
        .sinks = {},
    };
  }
  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;

  std::vector<float> query, out;
  std::vector<int32_t> starts, lengths;
  PagodaAttention op;
};

class Bench {
 public:
  explicit Bench(int threads) : threads_(threads) {
    const PagodaDeviceOptions options = {.device = 0, .threads = threads, .isa = nullptr};
    check(api_->openDevice(&options, &device_, &error_));
    PagodaDeviceInfo info;
    check(api_->deviceInfo(device_, &info, &error_));
    std::printf("%s, %s, %d threads\n\n", info.name, info.isa, info.threads);
  }
  ~Bench() { api_->closeDevice(device_); }

  static void printHeader() {
    std::printf(
        "| KV cache | headDim | requests x tokens | context | ms | GB/s | of bandwidth | GFLOP/s | of peak |\n");
    std::printf("|---|---|---|---|---|---|---|---|---|\n");
  }

  static void printSharedHeader() {
    std::printf(
        "\n| KV cache | headDim | requests | shared | each reads, ms | GB/s | of bandwidth | together, ms | GB/s | ");
    std::printf("GFLOP/s | of peak | ratio |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n");
  }

  void run(const KvType& type, int32_t headDim) {
    PagodaKvCache cache = createCache(type.dtype, headDim);
    for (const Load& load : kLoads) {
      const Limits limits(threads_);
      const double time = timeOf(cache, load, scattered(cache, load));
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

  void runSchedule() {
    const PagodaKvCache cache = {nullptr, 1 << 24, kBlockSize, kKvHeads, 64, PAGODA_BF16, 0};
    const Load load = {256, 1, 4096 + kOwnTokens};
    const auto timeOfSchedule = [&](const std::vector<int32_t>& table) {
      const Batch batch(cache, load, table);
      AttentionScheduler scheduler;
      return bestTime([&] { scheduler.schedule(batch.op, threads_); });
    };
    std::printf("\nSchedule of 256 requests: %.1f us where they share nothing, %.1f us where they share 4096 tokens\n",
                timeOfSchedule(scattered(cache, load)) * 1e6, timeOfSchedule(shared(cache, load, 4096, false)) * 1e6);
  }

  void runShared(const KvType& type, int32_t headDim) {
    PagodaKvCache cache = createCache(type.dtype, headDim);
    for (const auto& [requests, prefix] : kSharedLoads) {
      const Limits limits(threads_);
      const Load load = {requests, 1, prefix + kOwnTokens};
      double alone = 1e9, together = 1e9;
      for (int round = 0; round < 3; ++round) {
        alone = std::min(alone, timeOf(cache, load, shared(cache, load, prefix, true)));
        together = std::min(together, timeOf(cache, load, shared(cache, load, prefix, false)));
      }
      const double own = static_cast<double>(requests) * kOwnTokens / kBlockSize * blockBytes_;
      const double once = static_cast<double>(prefix) / kBlockSize * blockBytes_;
      const double operations = 4.0 * kHeads * headDim * requests * load.context;
      const double peak = type.dtype == PAGODA_F32 ? limits.f32 : limits.bf16;
      const double rate = (own + requests * once) / alone;
      std::printf("| %s | %d | %d | %d | %.3f | %.1f | %.0f %% | %.3f | %.1f | %.0f | %.0f %% | %.2f |\n", type.name,
                  headDim, requests, prefix, alone * 1e3, rate / 1e9, 100 * rate / limits.bandwidth, together * 1e3,
                  (own + once) / together / 1e9, operations / together / 1e9, 100 * operations / together / peak,
                  alone / together);
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
    PagodaKvCache cache = {nullptr, 0, kBlockSize, kKvHeads, headDim, dtype, 0};
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

  // Blocks all over the cache, in no two requests the same ones at the same place.
  static std::vector<int32_t> scattered(const PagodaKvCache& cache, const Load& load) {
    const int64_t maxBlocks = load.context / kBlockSize;
    std::vector<int32_t> table;
    for (int64_t r = 0; r < load.requests; ++r) {
      for (int64_t i = 0; i < maxBlocks; ++i) {
        table.push_back(static_cast<int32_t>((r * (maxBlocks + 1) + i) * 7919 % cache.numBlocks));
      }
    }
    return table;
  }

  // The same blocks for the prefix of all requests; `rotated`: each request has those of a split in its own order.
  static std::vector<int32_t> shared(const PagodaKvCache& cache, const Load& load, int32_t prefix, bool rotated) {
    const int32_t maxBlocks = load.context / kBlockSize, prefixBlocks = prefix / kBlockSize;
    std::vector<int32_t> table;
    for (int32_t r = 0; r < load.requests; ++r) {
      for (int32_t i = 0; i < maxBlocks; ++i) {
        const int32_t own = (r + 1) * maxBlocks + i;
        const int32_t turned = i - i % kSplitBlocks + (i + r) % kSplitBlocks;
        const int64_t block = i >= prefixBlocks ? own : rotated ? turned : i;
        table.push_back(static_cast<int32_t>(block * 7919 % cache.numBlocks));
      }
    }
    return table;
  }

  double timeOf(const PagodaKvCache& cache, const Load& load, const std::vector<int32_t>& table) {
    const Batch batch(cache, load, table);
    return bestTime([&] { check(api_->attention(device_, &batch.op, &error_)); });
  }

  static double bestTime(auto body) {
    constexpr int kFewest = 3, kMost = 40;
    constexpr double kLongEnough = 0.5;
    double best = 1e9, total = 0;
    for (int run = 0; run < kFewest || (run < kMost && total < kLongEnough); ++run) {
      const double start = seconds();
      body();
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
  const auto forTypes = [&](auto body) {
    for (const KvType& type : kTypes) {
      const auto isWanted = [&](const char* name) { return std::strcmp(name, type.name) == 0; };
      if (argc > 2 && std::none_of(argv + 2, argv + argc, isWanted)) continue;
      for (const int32_t headDim : {64, 128}) body(type, headDim);
    }
  };
  Bench::printHeader();
  forTypes([&](const KvType& type, int32_t headDim) { bench.run(type, headDim); });
  Bench::printSharedHeader();
  forTypes([&](const KvType& type, int32_t headDim) { bench.runShared(type, headDim); });
  bench.runSchedule();
  return 0;
}

}  // namespace pagoda::PAGODA_ISA

int main(int argc, char** argv) { return pagoda::PAGODA_ISA::benchMain(argc, argv); }
