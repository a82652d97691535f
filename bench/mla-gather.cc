// What does the gather in the kernel save? One layer of latent attention with the dimensions of DeepSeek-V2-Lite (16
// heads) and V3 (128; latent 512, rope key 64, weights in bf16), absorbed, over a context in scattered blocks: decode
// and chunks of a prompt, three ways in turn:
//
//   online     mlaAttention, which reads the pages itself
//   in chunks  kChunk tokens at a time are copied side by side, and attended to where they then lie
//   all first  all tokens are copied side by side, then attended to
//
//   cmake -S . -B build/bench -DPAGODA_BUILD_ADDON=OFF -DPAGODA_BUILD_BENCH=ON
//   cmake --build build/bench -j --target mla-gather-bench
//   build/bench/mla-gather-bench [threads] [f32|bf16|int8...] [heads] [most context]
//
// Copies are memcpy of whole blocks, by all threads: the cheapest gather there is. "In chunks" is the time of
// all copies into one buffer and of attention that finds its pages in that buffer again and again: what merging the
// parts takes is left out, in its favour. "gatherKv" is the time of the explicit gather to f32 rows, kChunk tokens at a
// time. Bytes are those of the rows that each way has to read and write; workspace is what it needs beside cache and
// operands.
//
// The second table is of requests that decode together, each over a context of its own, beside the limits of the
// minute: the bandwidth, of rows that are read once, and the peak of the products, whose operations are those of scores
// and sums and of the projections to and from latents. Each time is the best of several runs.
#include <cstring>

#include "cpu/isa-kernels.h"
#include "latent-layer.h"
#include "machine-limits.h"

namespace pagoda::PAGODA_ISA {
namespace {

constexpr int32_t kChunk = 512;
constexpr int32_t kContexts[] = {1024, 4096, 16384, 65536};
constexpr int32_t kTokens[] = {1, 16, 128, 512};
constexpr int32_t kBatches[] = {1, 4, 16, 64};
constexpr int32_t kBatchContext = 4096;

int runsFor(double operations) { return operations < 5e10 ? 7 : operations < 5e11 ? 3 : 1; }

// Of scores and sums over all the context, and of the products with keyUp and valueUp, for each token and head.
double operationsOf(int32_t heads, int32_t tokens, int32_t context) {
  return 2.0 * heads * tokens * (static_cast<double>(context) * (kRow + kLatent) + kLatent * (kNope + kValue));
}

struct Load {
  int32_t heads;
  int32_t tokens;
  int32_t context;
};

// Copies the blocks of a layer's one request side by side, behind them, by all threads.
class Copier {
 public:
  Copier(const LatentLayer& layer, uint64_t blockBytes, ThreadPool& pool)
      : blocks_(layer.blocks), data_(static_cast<char*>(layer.cache.data)), blockBytes_(blockBytes), pool_(pool) {}

  // Blocks [first, first + count) of the context, to the spare blocks from `target` on.
  void copy(int32_t first, int32_t count, int32_t target) {
    char* to = data_ + (blocks_.size() + target) * blockBytes_;
    auto body = [&](int32_t begin, int32_t end, int32_t) {
      for (int32_t i = begin; i < end; ++i)
        std::memcpy(to + i * blockBytes_, data_ + blocks_[first + i] * blockBytes_, blockBytes_);
    };
    parallel(&pool_, count, 4, body);
  }

 private:
  const std::vector<int32_t>& blocks_;
  char* data_;
  uint64_t blockBytes_;
  ThreadPool& pool_;
};

// A block table over the spare blocks of a layer, of which the first `distinct` come again and again.
std::vector<int32_t> spareTable(const LatentLayer& layer, int32_t distinct) {
  std::vector<int32_t> table(layer.blocks.size());
  const auto blocks = static_cast<int32_t>(table.size());
  for (int32_t i = 0; i < blocks; ++i) table[i] = blocks + i % distinct;
  return table;
}

struct Times {
  double online = 1e9, chunks = 1e9, all = 1e9, gatherKv = 1e9;
};

template <class Work>
void time(double& best, Work work) {
  best = std::min(best, bestTime(1, 1, [&](int) { work(); }));
}

Times timeWays(LatentLayer& layer, Copier& copier, const Load& load) {
  const auto blocks = static_cast<int32_t>(layer.blocks.size()), chunkBlocks = kChunk / kBlockSize;
  const std::vector<int32_t> chunk = spareTable(layer, chunkBlocks), all = spareTable(layer, blocks);
  const PagodaMlaAttention online = layer.attention(load.tokens, 0);
  PagodaMlaAttention inChunks = online, overAll = online;
  inChunks.batch.blockTable = chunk.data();
  overAll.batch.blockTable = all.data();
  std::vector<float> rows(static_cast<size_t>(kChunk) * kRow);
  Times best;
  for (int run = 0; run < runsFor(operationsOf(load.heads, load.tokens, load.context)); ++run) {
    time(best.online, [&] { layer.attend(online); });
    time(best.chunks, [&] {
      for (int32_t first = 0; first < blocks; first += chunkBlocks) copier.copy(first, chunkBlocks, 0);
      layer.attend(inChunks);
    });
    time(best.all, [&] {
      copier.copy(0, blocks, 0);
      layer.attend(overAll);
    });
    time(best.gatherKv, [&] {
      for (int32_t start = 0; start < load.context; start += kChunk) layer.gather(start, kChunk, rows);
    });
  }
  return best;
}

void run(CpuDevice& device, ThreadPool& pool, const KvType& type, const Load& load) {
  LatentLayer layer(device, load.heads, type.dtype, 1, load.context, load.context / kBlockSize);
  Copier copier(layer, layer.blockBytes(), pool);
  const Times best = timeWays(layer, copier, load);
  const double stored = static_cast<double>(layer.blockBytes()) * load.context / kBlockSize;
  const auto scratch = static_cast<double>(device.workspace(layer.attention(load.tokens, 0)));
  const auto print = [&](const char* way, double time, double bytes, double workspace) {
    std::printf("| %s | %d | %d | %d | %s | %.3f | %.2f | %.1f | %.1f |\n", type.name, load.heads, load.tokens,
                load.context, way, time * 1e3, time / best.online, bytes / 1e6, workspace / 1e6);
  };
  print("online", best.online, stored, scratch);
  print("in chunks", best.chunks, 3 * stored, scratch + stored * kChunk / load.context);
  print("all first", best.all, 3 * stored, scratch + stored);
  print("gatherKv", best.gatherKv, stored + 4.0 * load.context * kRow, 4.0 * kChunk * kRow);
  std::fflush(stdout);
}

void runBatch(CpuDevice& device, const KvType& type, const Limits& limits, int32_t heads, int32_t requests) {
  LatentLayer layer(device, heads, type.dtype, requests, kBatchContext);
  const PagodaMlaAttention op = layer.attention(1, 0);
  const double operations = requests * operationsOf(heads, 1, kBatchContext);
  double best = 1e9;
  for (int run = 0; run < runsFor(operations); ++run) time(best, [&] { layer.attend(op); });
  const double bandwidth = static_cast<double>(layer.blockBytes()) * layer.blocks.size() / best;
  const double peak = type.dtype == PAGODA_F32 ? limits.f32 : limits.bf16;
  std::printf("| %s | %d | %d | %.3f | %.1f | %.0f %% | %.0f %% |\n", type.name, heads, requests, best * 1e3,
              bandwidth / 1e9, 100 * bandwidth / limits.bandwidth, 100 * operations / best / peak);
  std::fflush(stdout);
}

struct Choice {
  const char* type;  // NULL: all
  int32_t heads;     // 0: all
  int32_t context;   // the most
};

template <class Body>
void forChosen(const Choice& choice, Body body) {
  for (const KvType& type : kTypes) {
    if (choice.type != nullptr && std::strcmp(choice.type, type.name) != 0) continue;
    for (int32_t heads : {16, 128}) {
      if (choice.heads == 0 || choice.heads == heads) body(type, heads);
    }
  }
}

}  // namespace
}  // namespace pagoda::PAGODA_ISA

int main(int argc, char** argv) {
  using namespace pagoda::PAGODA_ISA;
  const int threads = argc > 1 ? std::atoi(argv[1]) : 2;
  const Choice choice = {argc > 2 ? argv[2] : nullptr, argc > 3 ? std::atoi(argv[3]) : 0,
                         argc > 4 ? std::atoi(argv[4]) : INT32_MAX};
  CpuDevice device(threads);
  pagoda::ThreadPool pool(threads);
  std::printf("| KV cache | heads | tokens | context | way | ms | times online | MB moved | workspace, MB |\n");
  std::printf("|---|---|---|---|---|---|---|---|---|\n");
  forChosen(choice, [&](const KvType& type, int32_t heads) {
    for (int32_t tokens : kTokens) {
      for (int32_t context : kContexts) {
        if (context <= choice.context) run(device, pool, type, {heads, tokens, context});
      }
    }
  });
  const Limits limits(threads);
  std::printf("\n%.1f GB/s, %.0f GFLOP/s in f32, %.0f in bf16\n\n", limits.bandwidth / 1e9, limits.f32 / 1e9,
              limits.bf16 / 1e9);
  std::printf("| KV cache | heads | requests | ms | GB/s | of bandwidth | of peak |\n|---|---|---|---|---|---|---|\n");
  forChosen(choice, [&](const KvType& type, int32_t heads) {
    for (int32_t requests : kBatches) runBatch(device, type, limits, heads, requests);
  });
}
