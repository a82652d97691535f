// What does the gather in the kernel save? One layer of latent attention with the dimensions of DeepSeek-V3 (latent
// 512, rope key 64, weights in bf16) over contexts in scattered blocks, three ways, in turn:
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
#include "latent-layer.h"
#include "machine-limits.h"

namespace pagoda::PAGODA_ISA {
namespace {

constexpr int32_t kChunk = 512;

// `requests` requests that decode over `context` tokens each.
struct Load {
  int32_t heads;
  int32_t requests;
  int32_t context;
};
constexpr Load kLoads[] = {{16, 1, 4096}, {16, 8, 4096}, {128, 1, 4096}, {128, 8, 4096}, {128, 1, 16384}};

void print(const KvType& type, const Load& load, const char* way, double time, double bytes, double workspace) {
  std::printf("| %s | %d | %d | %d | %s | %.3f | %.1f | %.1f |\n", type.name, load.heads, load.requests, load.context,
              way, time * 1e3, bytes / 1e6, workspace / 1e6);
  std::fflush(stdout);
}

void run(CpuDevice& device, const KvType& type, const Load& load) {
  const int32_t tokens = load.requests * load.context;
  LatentLayer layer(device, load.heads, type.dtype, load.requests, load.context);
  LatentLayer contiguous(device, load.heads, type.dtype, load.requests, load.context);
  std::iota(contiguous.blocks.begin(), contiguous.blocks.end(), 0);
  std::vector<float> rows(static_cast<size_t>(tokens) * kRow), chunk(static_cast<size_t>(kChunk) * kRow);
  const PagodaMlaAttention online = layer.attention(1, 0), gathered = contiguous.attention(1, 0);

  constexpr int kRuns = 7;
  double onlineTime = 1e9, chunksTime = 1e9, allTime = 1e9;
  for (int i = 0; i < kRuns; ++i) {
    onlineTime = std::min(onlineTime, bestTime(1, 1, [&](int) { layer.attend(online); }));
    chunksTime = std::min(chunksTime, bestTime(1, 1, [&](int) {
                            for (int32_t start = 0; start < load.context; start += kChunk)
                              layer.gather(start, kChunk, chunk);
                          }));
    allTime = std::min(allTime, bestTime(1, 1, [&](int) {
                         layer.gather(0, load.context, rows, load.context);
                         contiguous.write(rows);
                         contiguous.attend(gathered);
                       }));
  }
  const double stored = static_cast<double>(layer.blockBytes()) * tokens / kBlockSize, floats = 4.0 * tokens * kRow;
  const auto scratch = static_cast<double>(device.workspace(online));
  print(type, load, "online", onlineTime, stored, scratch);
  print(type, load, "in chunks", chunksTime, stored + floats, 4.0 * kChunk * kRow);
  print(type, load, "all first", allTime, 3 * stored + 2 * floats, scratch + stored + floats);
}

}  // namespace
}  // namespace pagoda::PAGODA_ISA

int main(int argc, char** argv) {
  using namespace pagoda::PAGODA_ISA;
  CpuDevice device(argc > 1 ? std::atoi(argv[1]) : 2);
  std::printf("| KV cache | heads | requests | context | way | ms | MB moved | workspace, MB |\n");
  std::printf("|---|---|---|---|---|---|---|---|\n");
  for (const KvType& type : kTypes) {
    for (const Load& load : kLoads) run(device, type, load);
  }
}
