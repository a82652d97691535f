// From how many new tokens on is the expanded form of latent attention faster than the absorbed one? One layer with the
// widths of DeepSeek-V2 and V3 (latent 512, rope key 64, heads of 128 + 64 and 128, weights in bf16), one request:
// chunks of some tokens at the end of contexts in scattered blocks, in both forms in turn.
//
//   cmake -S . -B build/bench -DPAGODA_BUILD_ADDON=OFF -DPAGODA_BUILD_BENCH=ON
//   cmake --build build/bench -j --target mla-forms-bench && build/bench/mla-forms-bench [threads] [f32|bf16|int8]
//   [heads]
//
// "gather" is gatherKv alone over the context, 512 tokens at a time into one buffer: what the expanded form spends on
// it at least. Workspace is what a call needs beside the cache and the operands. Each time is the best of several runs.
#include <cstring>

#include "latent-layer.h"
#include "machine-limits.h"

namespace pagoda::PAGODA_ISA {
namespace {

constexpr int32_t kContexts[] = {1024, 4096, 16384};
constexpr int32_t kChunks[] = {16, 64, 128, 256, 512};
constexpr int32_t kGathered = 512;

void run(CpuDevice& device, const KvType& type, int32_t heads, int32_t context) {
  LatentLayer layer(device, heads, type.dtype, 1, context);
  std::vector<float> rows(static_cast<size_t>(kGathered) * kRow);
  for (int32_t chunk : kChunks) {
    const double work = static_cast<double>(heads) * context * chunk;
    const int runs = work < 1e8 ? 7 : work < 5e8 ? 3 : 2;
    double absorbed = 1e9, expanded = 1e9, gather = 1e9;
    PagodaMlaAttention op = layer.attention(chunk, 0);
    for (int i = 0; i < runs; ++i) {
      op.expandFrom = 0;
      absorbed = std::min(absorbed, bestTime(1, 1, [&](int) { layer.attend(op); }));
      op.expandFrom = 1;
      expanded = std::min(expanded, bestTime(1, 1, [&](int) { layer.attend(op); }));
      gather = std::min(gather, bestTime(1, 1, [&](int) {
                          for (int32_t start = 0; start < context; start += kGathered)
                            layer.gather(start, kGathered, rows);
                        }));
    }
    const auto expandedBytes = static_cast<double>(device.workspace(op));
    op.expandFrom = 0;
    std::printf("| %s | %d | %d | %d | %.1f | %.1f | %.2f | %.2f | %.1f | %.1f |\n", type.name, heads, context, chunk,
                absorbed * 1e3, expanded * 1e3, expanded / absorbed, gather * 1e3,
                static_cast<double>(device.workspace(op)) / 1e6, expandedBytes / 1e6);
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace pagoda::PAGODA_ISA

int main(int argc, char** argv) {
  using namespace pagoda::PAGODA_ISA;
  CpuDevice device(argc > 1 ? std::atoi(argv[1]) : 2);
  std::printf("| KV cache | heads | context | chunk | absorbed, ms | expanded, ms | ratio | gather, ms | ");
  std::printf("absorbed, MB | expanded, MB |\n|---|---|---|---|---|---|---|---|---|---|\n");
  for (const KvType& type : kTypes) {
    if (std::strcmp(type.name, argc > 2 ? argv[2] : "bf16") != 0) continue;
    for (int32_t heads : {16, 128}) {
      if (argc > 3 && std::atoi(argv[3]) != heads) continue;
      for (int32_t context : kContexts) run(device, type, heads, context);
    }
  }
}
