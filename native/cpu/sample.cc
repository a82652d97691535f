// Draws one token a row: logits processors, temperature, filters, then the exponential race.
#include "sample.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "candidates.h"
#include "logits-processors.h"
#include "logprobs.h"
#include "philox.h"
#include "threads.h"

namespace pagoda {
namespace {

// Rows are dealt to this many lanes, each with scratch memory of its own.
int32_t lanesOf(const PagodaSample& op, int32_t threads) { return std::min(threads, op.logits.rows); }

bool anyDrawn(const PagodaSample& op) {
  return std::any_of(op.temperature, op.temperature + op.logits.rows, [](float t) { return t > 0; });
}

// Scratch of one lane, in bytes: candidates, then what the processors need.
struct Layout {
  uint64_t candidates, logits, lengths;

  explicit Layout(const PagodaSample& op) {
    const auto vocab = static_cast<uint64_t>(op.logits.width);
    candidates = anyDrawn(op) ? sizeof(Candidate) * vocab : 0;
    logits = hasControls(op) ? sizeof(float) * vocab : 0;
    const auto history = static_cast<uint64_t>(std::max(op.controls.maxHistory, 0));
    lengths = hasControls(op) ? sizeof(int32_t) * (history + history % 2) : 0;
  }

  // A multiple of 8: what follows must be aligned for doubles.
  uint64_t lane() const { return candidates + 2 * logits + lengths; }
};

struct Lane {
  Candidate* candidates;
  ProcessorScratch processors;

  Lane(char* memory, const Layout& layout) : candidates(reinterpret_cast<Candidate*>(memory)) {
    char* at = memory + layout.candidates;
    processors = {reinterpret_cast<float*>(at), reinterpret_cast<int32_t*>(at + layout.logits),
                  reinterpret_cast<int32_t*>(at + 2 * layout.logits)};
  }
};

// The largest of kStretch logits; +Inf where there is NaN or +Inf. Lanes are independent, for compilers to make
// vectors.
constexpr int32_t kStretch = 256;

float largestOf(const float* logits) {
  constexpr int32_t kLanes = 16;
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  float largest[kLanes];
  std::fill_n(largest, kLanes, -kInfinity);
  for (int32_t i = 0; i < kStretch; i += kLanes) {
    for (int32_t lane = 0; lane < kLanes; ++lane) {
      const float value = logits[i + lane] < kInfinity ? logits[i + lane] : kInfinity;
      largest[lane] = value > largest[lane] ? value : largest[lane];
    }
  }
  return *std::max_element(largest, largest + kLanes);
}

// Index of the largest logit, the lowest among equals; -1 for a row with NaN, +Inf or nothing but -Inf.
int32_t findLargest(const float* logits, int32_t vocab) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  float largest = -kInfinity;
  int32_t begin = 0, end = 0;  // where the first that is as large lies
  const int32_t whole = vocab / kStretch * kStretch;
  for (int32_t i = 0; i < whole; i += kStretch) {
    const float value = largestOf(logits + i);
    if (value > largest) largest = value, begin = i, end = i + kStretch;
  }
  for (int32_t i = whole; i < vocab; ++i) {
    if (!(logits[i] < kInfinity)) return -1;
    if (logits[i] > largest) largest = logits[i], begin = i, end = i + 1;
  }
  if (begin == end || largest == kInfinity) return -1;
  return static_cast<int32_t>(std::find(logits + begin, logits + end, largest) - logits);
}

// argmax of weight / e, e = -log(u) exponentially distributed: a draw in proportion to the weights. Since e >= 1 - u,
// most logarithms need not be taken.
int32_t race(const Candidate* candidates, int32_t count, Uniforms uniforms) {
  Candidate best = {-1.0, std::numeric_limits<int32_t>::max()};
  for (int32_t i = 0; i < count; ++i) {
    const double u = uniforms.of(candidates[i].token);
    if (candidates[i].weight < best.weight * (1.0 - u)) continue;
    const Candidate score = {candidates[i].weight / -std::log(u), candidates[i].token};
    if (heavier(score, best)) best = score;
  }
  return best.token;
}

int32_t draw(const PagodaSample& op, int32_t row, const float* values, int32_t largest, Candidate* candidates) {
  const double temperature = op.temperature[row];
  if (!(temperature > 0)) return largest;
  const DrawnLogits logits = {values, values[largest], temperature};
  const Uniforms uniforms(op.seed + 2 * static_cast<int64_t>(row), op.position[row]);
  int32_t count = collect(logits, op.logits.width, op.minP[row], candidates);
  count = keepTopK(candidates, count, op.topK[row], logits);
  if (hasControls(op)) count = keepTypicalP(candidates, count, op.controls.typicalP[row], logits);
  count = keepTopP(candidates, count, op.topP[row]);
  if (hasControls(op) && uniforms.ofXtc() < op.controls.xtcProbability[row])
    count = dropTopChoices(candidates, count, op.controls.xtcThreshold[row]);
  return race(candidates, count, uniforms);
}

// The row's target, or a drawn token; -1 where the row is not finite. `largest` is the index of the largest raw logit.
int32_t chooseToken(const PagodaSample& op, int32_t row, const float* raw, int32_t largest, const Lane& lane) {
  if (largest < 0) return -1;
  if (op.targets != nullptr && op.targets[row] >= 0) return op.targets[row];
  const float* logits = processLogits(op, row, raw, lane.processors);
  if (logits != raw) largest = findLargest(logits, op.logits.width);
  return largest < 0 ? -1 : draw(op, row, logits, largest, lane.candidates);
}

void sampleRow(const PagodaSample& op, int32_t row, const Lane& lane) {
  const float* raw = static_cast<const float*>(op.logits.data) + row * op.logits.rowStride;
  const int32_t largest = findLargest(raw, op.logits.width);
  const int32_t token = chooseToken(op, row, raw, largest, lane);
  op.finite[row] = token >= 0 ? 1 : 0;
  op.tokens[row] = token >= 0 ? token : 0;
  if (token >= 0) writeLogprobs(op, row, raw, raw[largest], token);
}

}  // namespace

uint64_t sampleScratch(const PagodaSample& op, int32_t threads) {
  return op.logits.rows == 0 ? 0 : static_cast<uint64_t>(lanesOf(op, threads)) * Layout(op).lane();
}

void sample(ThreadPool& pool, void* scratch, const PagodaSample& op) {
  struct Job {
    const PagodaSample* op;
    char* scratch;
    int32_t lanes;
    Layout layout;
  } job = {&op, static_cast<char*>(scratch), lanesOf(op, pool.threads()), Layout(op)};
  auto body = [](void* context, int32_t begin, int32_t end, int32_t) {
    const Job& job = *static_cast<const Job*>(context);
    for (int32_t index = begin; index < end; ++index) {
      const Lane lane(job.scratch + static_cast<uint64_t>(index) * job.layout.lane(), job.layout);
      for (int32_t row = index; row < job.op->logits.rows; row += job.lanes) sampleRow(*job.op, row, lane);
    }
  };
  pool.run(job.lanes, 1, body, &job);
}

}  // namespace pagoda
