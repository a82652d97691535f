// What do grouped products of experts gain? Times the op `experts` with few large experts, as Mixtral has them, and
// with many small ones, as DeepSeek-V2 and Qwen3-MoE have them, beside the same work as one linear an expert and
// matrix, over rows gathered by hand: the gathering and the activation of that are not timed.
//
//   cmake -S . -B build/bench -DPAGODA_BUILD_ADDON=OFF -DPAGODA_BUILD_BENCH=ON && cmake --build build/bench -j --target
//   experts-bench && build/bench/experts-bench [threads]
//
// The two run in turns, and each figure is the best of several runs.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "block-formats.h"
#include "cpu/backend.h"

namespace pagoda {
namespace {

struct Shape {
  int32_t hidden;
  int32_t width;
  int32_t experts;
  int32_t topK;
};
constexpr Shape kShapes[] = {{1024, 3584, 8, 2}, {1024, 512, 64, 6}};
constexpr int32_t kTokens[] = {1, 16, 128, 512};

struct Named {
  const char* name;
  PagodaDtype dtype;
};
constexpr Named kDtypes[] = {{"f32", PAGODA_F32}, {"bf16", PAGODA_BF16}, {"q8_0", PAGODA_Q8_0}, {"q4_k", PAGODA_Q4_K}};

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

std::vector<float> numbers(size_t count) {
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = static_cast<float>(i % 251) / 251 - 0.5f;
  return values;
}

PagodaTensor tensorOf(std::vector<float>& data, int32_t rows, int32_t width) {
  return {data.data(), rows, width, width, PAGODA_F32};
}

class Bench {
 public:
  explicit Bench(int threads) {
    const PagodaDeviceOptions options = {.device = 0, .threads = threads, .isa = nullptr};
    check(api_->openDevice(&options, &device_, &error_));
    PagodaDeviceInfo info;
    check(api_->deviceInfo(device_, &info, &error_));
    std::printf("%s, %s, %d threads\n\n", info.name, info.isa, info.threads);
    std::printf("| weights | experts x width x hidden | of a token | tokens | experts, ms | linears, ms | ratio |\n");
    std::printf("|---|---|---|---|---|---|---|\n");
  }
  ~Bench() { api_->closeDevice(device_); }

  void run(const Named& type, const Shape& shape) {
    const auto [hidden, width, experts, topK] = shape;
    const PagodaWeight gate = prepare(experts * width, hidden, type.dtype);
    const PagodaWeight up = prepare(experts * width, hidden, type.dtype);
    const PagodaWeight down = prepare(experts * hidden, width, type.dtype);
    // The same matrices, an expert each.
    std::vector<PagodaWeight> single;
    for (int e = 0; e < experts; ++e) {
      single.push_back(prepare(width, hidden, type.dtype));
      single.push_back(prepare(width, hidden, type.dtype));
      single.push_back(prepare(hidden, width, type.dtype));
    }
    for (const int32_t tokens : kTokens) {
      double grouped = 1e9, looped = 1e9;
      for (int turn = 0; turn < (tokens > 16 ? 5 : 20); ++turn) {
        grouped = std::min(grouped, timeExperts(shape, gate, up, down, tokens));
        looped = std::min(looped, timeLinears(shape, single, tokens));
      }
      std::printf("| %s | %d x %d x %d | %d | %d | %.2f | %.2f | %.2f |\n", type.name, experts, width, hidden, topK,
                  tokens, grouped * 1e3, looped * 1e3, looped / grouped);
      std::fflush(stdout);
    }
    for (const PagodaWeight& weight : single) api_->release(device_, weight.data);
    for (const PagodaWeight& weight : {gate, up, down}) api_->release(device_, weight.data);
  }

 private:
  void check(PagodaStatus status) {
    if (status == PAGODA_OK) return;
    std::fprintf(stderr, "%s\n", error_.message);
    std::exit(1);
  }

  PagodaWeight prepare(int32_t rows, int32_t cols, PagodaDtype dtype) {
    PagodaWeight weight = {nullptr, PAGODA_MATRIX, rows, cols, dtype};
    uint64_t bytes = 0;
    check(api_->weightBytes(device_, &weight, &bytes, &error_));
    check(api_->allocate(device_, bytes, &weight.data, &error_));
    const std::vector<float> source = numbers(static_cast<size_t>(rows) * cols);
    check(api_->prepareWeight(device_, &weight, 0, rows, source.data(), PAGODA_F32, &error_));
    return weight;
  }

  // The experts of a token: neighbours, the first by turns.
  static int32_t expertOf(const Shape& shape, int32_t token, int32_t slot) {
    return (token * 5 + slot) % shape.experts;
  }

  double timeExperts(const Shape& shape, const PagodaWeight& gate, const PagodaWeight& up, const PagodaWeight& down,
                     int32_t tokens) {
    std::vector<float> x = numbers(static_cast<size_t>(tokens) * shape.hidden), out(x.size());
    std::vector<float> route(static_cast<size_t>(tokens) * 2 * shape.topK, 0.5f);
    for (int32_t i = 0; i < tokens * shape.topK; ++i)
      route[i / shape.topK * 2 * shape.topK + shape.topK + i % shape.topK] =
          static_cast<float>(expertOf(shape, i / shape.topK, i % shape.topK));
    const PagodaExperts op = {tensorOf(out, tokens, shape.hidden),
                              tensorOf(x, tokens, shape.hidden),
                              tensorOf(route, tokens, 2 * shape.topK),
                              gate,
                              up,
                              down,
                              {},
                              {},
                              {},
                              shape.experts,
                              PAGODA_SILU};
    const double start = seconds();
    check(api_->experts(device_, &op, &error_));
    return seconds() - start;
  }

  double timeLinears(const Shape& shape, const std::vector<PagodaWeight>& weights, int32_t tokens) {
    std::vector<int32_t> rows(shape.experts);
    for (int32_t i = 0; i < tokens * shape.topK; ++i) ++rows[expertOf(shape, i / shape.topK, i % shape.topK)];
    std::vector<float> x = numbers(static_cast<size_t>(tokens) * shape.hidden),
                       hidden(static_cast<size_t>(tokens) * shape.width);
    std::vector<float> out(x.size());
    const double start = seconds();
    for (int e = 0; e < shape.experts; ++e) {
      for (int i = 0; i < 3 && rows[e] > 0; ++i) {
        PagodaTensor narrow = tensorOf(i < 2 ? x : out, rows[e], shape.hidden),
                     wide = tensorOf(hidden, rows[e], shape.width);
        const PagodaLinear op = {i < 2 ? wide : narrow, i < 2 ? narrow : wide, weights[3 * e + i], {}};
        check(api_->linear(device_, &op, &error_));
      }
    }
    return seconds() - start;
  }

  const PagodaBackend* api_ = pagodaCpuBackend();
  PagodaDevice* device_ = nullptr;
  PagodaError error_ = {};
};

}  // namespace
}  // namespace pagoda

int main(int argc, char** argv) {
  pagoda::Bench bench(argc > 1 ? std::max(1, std::atoi(argv[1])) : 2);
  for (const pagoda::Shape& shape : pagoda::kShapes) {
    for (const pagoda::Named& type : pagoda::kDtypes) bench.run(type, shape);
  }
  return 0;
}
