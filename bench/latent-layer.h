// One layer of latent attention over contexts in scattered blocks, for benchmarks of its forms.
#ifndef PAGODA_BENCH_LATENT_LAYER_H
#define PAGODA_BENCH_LATENT_LAYER_H

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <vector>

#include "cpu/attention-scheduler.h"
#include "cpu/backend.h"
#include "cpu/isa.h"
#include "cpu/mla-passes.h"

namespace pagoda::PAGODA_ISA {
namespace {

struct KvType {
  const char* name;
  PagodaDtype dtype;
};
constexpr KvType kTypes[] = {{"f32", PAGODA_F32}, {"bf16", PAGODA_BF16}, {"int8", PAGODA_INT8}};

// Widths of DeepSeek-V2 and V3.
constexpr int32_t kLatent = 512;
constexpr int32_t kRope = 64;
constexpr int32_t kNope = 128;
constexpr int32_t kValue = 128;
constexpr int32_t kRow = kLatent + kRope;
constexpr int32_t kBlockSize = 16;
constexpr float kScale = 0.1352338f;

inline uint32_t nextRandom(uint32_t& state) { return (state = state * 1664525u + 1013904223u) >> 8; }

inline std::vector<float> noise(size_t n) {
  std::vector<float> values(n);
  uint32_t state = 1;
  for (float& value : values) value = static_cast<float>(nextRandom(state)) / (1 << 23) - 1.0f;
  return values;
}

inline PagodaTensor tensor(std::vector<float>& values, int32_t rows, int32_t width) {
  return {.data = values.data(), .rows = rows, .width = width, .rowStride = width, .dtype = PAGODA_F32};
}

class CpuDevice {
 public:
  explicit CpuDevice(int threads) : threads_(threads) {
    const PagodaDeviceOptions options = {.device = 0, .threads = threads, .isa = nullptr};
    check(api->openDevice(&options, &handle, &error));
    PagodaDeviceInfo info;
    check(api->deviceInfo(handle, &info, &error));
    std::printf("%s, %s, %d threads\n\n", info.name, info.isa, info.threads);
  }
  ~CpuDevice() { api->closeDevice(handle); }
  CpuDevice(const CpuDevice&) = delete;
  CpuDevice& operator=(const CpuDevice&) = delete;

  void check(PagodaStatus status) {
    if (status == PAGODA_OK) return;
    std::fprintf(stderr, "%s\n", error.message);
    std::exit(1);
  }

  // Most scratch that a call takes.
  uint64_t workspace(const PagodaMlaAttention& op) const {
    Isa isas[kMaxIsas];
    const size_t count = listIsas(isas, kMaxIsas);
    const Isa* best = std::find_if(isas, isas + count, [](const Isa& isa) { return isa.available; });
    AttentionScheduler scheduler;
    MlaPasses passes;
    uint64_t most = 0;
    for (const MlaPass& pass : passes.cut(op)) {
      AttentionSchedule schedule = {};
      if (!pass.isExpanded) schedule = scheduler.schedule(absorbedAttention(op, pass), threads_);
      most = std::max(most, best->kernels->mlaAttentionScratch(op, pass, schedule, threads_));
    }
    return most;
  }

  const PagodaBackend* api = pagodaCpuBackend();
  PagodaDevice* handle = nullptr;
  PagodaError error = {};

 private:
  int threads_;
};

// Memory of a device.
class Allocation {
 public:
  Allocation(CpuDevice& device, uint64_t bytes) : device_(device) {
    device.check(device.api->allocate(device.handle, bytes, &data, &device.error));
  }
  ~Allocation() { device_.api->release(device_.handle, data); }
  Allocation(const Allocation&) = delete;
  Allocation& operator=(const Allocation&) = delete;

  void* data = nullptr;

 private:
  CpuDevice& device_;
};

// A bf16 matrix of small random numbers.
class Matrix {
 public:
  Matrix(CpuDevice& device, int32_t rows, int32_t cols)
      : weight{nullptr, PAGODA_MATRIX, rows, cols, PAGODA_BF16}, memory_(device, bytesOf(device, weight)) {
    weight.data = memory_.data;
    std::vector<float> values = noise(static_cast<size_t>(rows) * cols);
    for (float& value : values) value /= 16;
    device.check(device.api->prepareWeight(device.handle, &weight, 0, rows, values.data(), PAGODA_F32, &device.error));
  }

  PagodaWeight weight;

 private:
  static uint64_t bytesOf(CpuDevice& device, const PagodaWeight& weight) {
    uint64_t bytes = 0;
    device.check(device.api->weightBytes(device.handle, &weight, &bytes, &device.error));
    return bytes;
  }
  Allocation memory_;
};

class LatentLayer {
 public:
  // `requests` requests of `context` tokens each, and `spareBlocks` blocks behind theirs.
  LatentLayer(CpuDevice& device, int32_t heads, PagodaDtype dtype, int32_t requests, int32_t context,
              int32_t spareBlocks = 0)
      : cache{nullptr, requests * context / kBlockSize + spareBlocks, kBlockSize, 1, kRow, dtype, kLatent},
        blocks(cache.numBlocks - spareBlocks),
        device_(device),
        heads_(heads),
        requests_(requests),
        context_(context),
        memory_(device, blockBytes() * cache.numBlocks),
        keyUp_(device, heads * kLatent, kNope),
        valueUp_(device, heads * kValue, kLatent),
        keyExpand_(device, heads * kNope, kLatent),
        lengths_(requests, context) {
    cache.data = memory_.data;
    std::iota(blocks.begin(), blocks.end(), 0);
    uint32_t state = 1;
    for (size_t i = blocks.size() - 1; i > 0; --i) std::swap(blocks[i], blocks[nextRandom(state) % (i + 1)]);
    std::vector<float> rows = noise(static_cast<size_t>(requests) * context * kRow);
    write(rows);
  }

  uint64_t blockBytes() {
    uint64_t bytes = 0;
    device_.check(device_.api->kvBlockBytes(device_.handle, &cache, &bytes, &device_.error));
    return bytes;
  }

  // Rows of all tokens, into the slots in order.
  void write(std::vector<float>& rows) {
    const auto tokens = static_cast<int32_t>(rows.size() / kRow);
    std::vector<int32_t> slots(tokens);
    std::iota(slots.begin(), slots.end(), 0);
    PagodaTensor latent = tensor(rows, tokens, kRow), ropeKey = latent;
    latent.width = kLatent;
    ropeKey.width = kRope;
    ropeKey.data = rows.data() + kLatent;
    const PagodaLatentWrite op = {latent, ropeKey, cache, slots.data()};
    device_.check(device_.api->latentWrite(device_.handle, &op, &device_.error));
  }

  // Rows [start, start + tokens) of each request, into `rows`; those of request r `stride` rows behind those of r - 1.
  void gather(int32_t start, int32_t tokens, std::vector<float>& rows, int32_t stride = 0) {
    for (int32_t r = 0; r < requests_; ++r) {
      const int32_t starts[] = {0, tokens}, end = start + tokens, maxBlocks = context_ / kBlockSize;
      PagodaTensor out = tensor(rows, tokens, kRow);
      out.data = rows.data() + static_cast<int64_t>(r) * stride * kRow;
      const int32_t* table = blocks.data() + static_cast<int64_t>(r) * maxBlocks;
      const PagodaGatherKv op = {out, cache, {1, tokens, maxBlocks, tokens, end, starts, &end, table}, PAGODA_ND};
      device_.check(device_.api->gatherKv(device_.handle, &op, &device_.error));
    }
  }

  // The last `tokens` tokens of each request; until the next call.
  PagodaMlaAttention attention(int32_t tokens, int32_t expandFrom) {
    const int32_t rows = tokens * requests_;
    starts_.clear();
    for (int32_t r = 0; r <= requests_; ++r) starts_.push_back(r * tokens);
    query_ = noise(static_cast<size_t>(rows) * heads_ * kNope);
    queryRope_ = noise(static_cast<size_t>(rows) * heads_ * kRope);
    out_.resize(static_cast<size_t>(rows) * heads_ * kValue);
    return {tensor(out_, rows, heads_ * kValue),
            tensor(query_, rows, heads_ * kNope),
            tensor(queryRope_, rows, heads_ * kRope),
            cache,
            {requests_, rows, context_ / kBlockSize, tokens, context_, starts_.data(), lengths_.data(), blocks.data()},
            keyUp_.weight,
            valueUp_.weight,
            keyExpand_.weight,
            heads_,
            kScale,
            expandFrom};
  }

  void attend(const PagodaMlaAttention& op) {
    device_.check(device_.api->mlaAttention(device_.handle, &op, &device_.error));
  }

  PagodaKvCache cache;
  std::vector<int32_t> blocks;

 private:
  CpuDevice& device_;
  int32_t heads_, requests_, context_;
  Allocation memory_;
  Matrix keyUp_, valueUp_, keyExpand_;
  std::vector<int32_t> lengths_, starts_;
  std::vector<float> query_, queryRope_, out_;
};

}  // namespace
}  // namespace pagoda::PAGODA_ISA

#endif
