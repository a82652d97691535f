// What does the gather in the kernel save? One layer of latent attention with the dimensions of DeepSeek-V3 (latent
// 512, rope key 64) over contexts in scattered blocks, three ways, in turn:
//
//   online      mlaAttention, which reads the pages itself
//   in chunks   gatherKv alone, kChunk tokens at a time into one buffer: what an explicit gather costs before it
//   attends all first   gatherKv of all tokens, which are stored side by side, then mlaAttention over them
//
//   cmake -S . -B build/bench -DPAGODA_BUILD_ADDON=OFF -DPAGODA_BUILD_BENCH=ON
//   cmake --build build/bench -j --target mla-gather-bench && build/bench/mla-gather-bench [threads]
//
// Bytes are those that each way has to move, counted once a request. Workspace is what it needs beside the cache and
// the operands. Each time is the best of several runs.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <numeric>

#include "cpu/attention-scheduler.h"
#include "cpu/backend.h"
#include "cpu/isa.h"
#include "machine-limits.h"

namespace pagoda::PAGODA_ISA {
namespace {

constexpr int32_t kLatent = 512;
constexpr int32_t kRope = 64;
constexpr int32_t kRow = kLatent + kRope;
constexpr int32_t kBlockSize = 16;
constexpr int32_t kChunk = 512;

struct KvType {
  const char* name;
  PagodaDtype dtype;
};
constexpr KvType kTypes[] = {{"f32", PAGODA_F32}, {"bf16", PAGODA_BF16}, {"int8", PAGODA_INT8}};

// `requests` requests that decode over `context` tokens each.
struct Load {
  int32_t heads;
  int32_t requests;
  int32_t context;
};
constexpr Load kLoads[] = {{16, 1, 4096}, {16, 8, 4096}, {128, 1, 4096}, {128, 8, 4096}, {128, 1, 16384}};

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
    std::printf("| KV cache | heads | requests | context | way | ms | MB moved | workspace, MB |\n");
    std::printf("|---|---|---|---|---|---|---|---|\n");
  }
  ~Bench() { api_->closeDevice(device_); }
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;

  void run(const KvType& type, const Load& load);

 private:
  void check(PagodaStatus status) {
    if (status == PAGODA_OK) return;
    std::fprintf(stderr, "%s\n", error_.message);
    std::exit(1);
  }

  PagodaKvCache createCache(PagodaDtype dtype, int32_t tokens) {
    PagodaKvCache cache = {nullptr, tokens / kBlockSize, kBlockSize, 1, kRow, dtype, kLatent};
    check(api_->kvBlockBytes(device_, &cache, &blockBytes_, &error_));
    check(api_->allocate(device_, blockBytes_ * cache.numBlocks, &cache.data, &error_));
    return cache;
  }

  // Rows of all tokens, into the first slots.
  void write(const PagodaKvCache& cache, std::vector<float>& rows) {
    const auto tokens = static_cast<int32_t>(rows.size() / kRow);
    std::vector<int32_t> slots(tokens);
    std::iota(slots.begin(), slots.end(), 0);
    PagodaTensor latent = tensor(rows, tokens, kRow), ropeKey = latent;
    latent.width = kLatent;
    ropeKey.width = kRope;
    ropeKey.data = rows.data() + kLatent;
    const PagodaLatentWrite op = {latent, ropeKey, cache, slots.data()};
    check(api_->latentWrite(device_, &op, &error_));
  }

  // Rows [start, start + tokens) of each request of `batch`, one request after the other.
  void gather(const PagodaKvCache& cache, const PagodaBatch& batch, int32_t start, int32_t tokens,
              std::vector<float>& rows) {
    for (int32_t r = 0; r < batch.numRequests; ++r) {
      const int32_t starts[] = {0, tokens}, end = start + tokens;
      const int32_t* blocks = batch.blockTable + static_cast<int64_t>(r) * batch.maxBlocks;
      const size_t first =
          rows.size() > static_cast<size_t>(tokens) * kRow ? static_cast<size_t>(r) * tokens * kRow : 0;
      PagodaTensor out = tensor(rows, tokens, kRow);
      out.data = rows.data() + first;
      const PagodaGatherKv op = {
          out, cache, {1, tokens, batch.maxBlocks, tokens, end, starts, &end, blocks}, PAGODA_ND};
      check(api_->gatherKv(device_, &op, &error_));
    }
  }

  void attend(const PagodaMlaAttention& op) { check(api_->mlaAttention(device_, &op, &error_)); }

  uint64_t scratchOf(const PagodaMlaAttention& op) const {
    Isa isas[kMaxIsas];
    const size_t count = listIsas(isas, kMaxIsas);
    const Isa* best = std::find_if(isas, isas + count, [](const Isa& isa) { return isa.available; });
    AttentionScheduler scheduler;
    const PagodaAttention attention = asAttention(op);
    return best->kernels->attentionScratch(attention, scheduler.schedule(attention, threads_), threads_);
  }

  static void print(const KvType& type, const Load& load, const char* way, double time, double bytes,
                    double workspace) {
    std::printf("| %s | %d | %d | %d | %s | %.3f | %.1f | %.1f |\n", type.name, load.heads, load.requests, load.context,
                way, time * 1e3, bytes / 1e6, workspace / 1e6);
    std::fflush(stdout);
  }

  const PagodaBackend* api_ = pagodaCpuBackend();
  PagodaDevice* device_ = nullptr;
  PagodaError error_ = {};
  uint64_t blockBytes_ = 0;
  int threads_;
};

void Bench::run(const KvType& type, const Load& load) {
  const int32_t tokens = load.requests * load.context, maxBlocks = load.context / kBlockSize;
  const PagodaKvCache cache = createCache(type.dtype, tokens), contiguous = createCache(type.dtype, tokens);
  std::vector<float> rows = noise(static_cast<size_t>(tokens) * kRow), chunk(static_cast<size_t>(kChunk) * kRow);
  write(cache, rows);
  std::vector<int32_t> inOrder(tokens / kBlockSize), starts, lengths(load.requests, load.context);
  std::iota(inOrder.begin(), inOrder.end(), 0);
  std::vector<int32_t> scattered = inOrder;
  uint32_t state = 1;
  for (size_t i = scattered.size() - 1; i > 0; --i) {
    state = state * 1664525u + 1013904223u;
    std::swap(scattered[i], scattered[(state >> 8) % (i + 1)]);
  }
  for (int32_t r = 0; r <= load.requests; ++r) starts.push_back(r);
  const PagodaBatch batch = {load.requests, load.requests, maxBlocks,      1,
                             load.context,  starts.data(), lengths.data(), scattered.data()};
  std::vector<float> query = noise(static_cast<size_t>(load.requests) * load.heads * kLatent), out(query.size());
  std::vector<float> queryRope = noise(static_cast<size_t>(load.requests) * load.heads * kRope);
  const int32_t width = load.heads * kLatent;
  const PagodaMlaAttention online = {tensor(out, load.requests, width),
                                     tensor(query, load.requests, width),
                                     tensor(queryRope, load.requests, load.heads * kRope),
                                     cache,
                                     batch,
                                     load.heads,
                                     0.1352338f};
  PagodaMlaAttention gathered = online;
  gathered.cache = contiguous;
  gathered.batch.blockTable = inOrder.data();

  constexpr int kRuns = 7;
  double onlineTime = 1e9, chunksTime = 1e9, allTime = 1e9;
  for (int run = 0; run < kRuns; ++run) {
    onlineTime = std::min(onlineTime, bestTime(1, 1, [&](int) { attend(online); }));
    chunksTime = std::min(chunksTime, bestTime(1, 1, [&](int) {
                            for (int32_t start = 0; start < load.context; start += kChunk)
                              gather(cache, batch, start, kChunk, chunk);
                          }));
    allTime = std::min(allTime, bestTime(1, 1, [&](int) {
                         gather(cache, batch, 0, load.context, rows);
                         write(contiguous, rows);
                         attend(gathered);
                       }));
  }
  const double stored = static_cast<double>(blockBytes_) * tokens / kBlockSize, floats = 4.0 * tokens * kRow;
  const auto scratch = static_cast<double>(scratchOf(online));
  print(type, load, "online", onlineTime, stored, scratch);
  print(type, load, "in chunks", chunksTime, stored + floats, 4.0 * kChunk * kRow);
  print(type, load, "all first", allTime, 3 * stored + 2 * floats, scratch + stored + floats);
  api_->release(device_, cache.data);
  api_->release(device_, contiguous.data);
}

}  // namespace
}  // namespace pagoda::PAGODA_ISA

int main(int argc, char** argv) {
  using namespace pagoda::PAGODA_ISA;
  Bench bench(argc > 1 ? std::atoi(argv[1]) : 2);
  for (const KvType& type : kTypes) {
    for (const Load& load : kLoads) bench.run(type, load);
  }
}
