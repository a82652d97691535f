// Draws one token a row: temperature, minP, topK, topP, then the exponential race. Probabilities are in double, and not
// normalised: weight = exp((logit - max logit) / temperature), so that the most probable token has weight 1.
#include "sample.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "threads.h"

namespace pagoda {
namespace {

struct Candidate {
  double weight;
  int32_t token;
};

// ---- random numbers --------------------------------------------------------------------------------

struct Block {
  uint32_t x[4];
};

// Philox4x32-10. Salmon, Moraes, Dror and Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3".
Block philox(Block counter, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * counter.x[0];
    const uint64_t b = uint64_t{0xCD9E8D57} * counter.x[2];
    counter = {{static_cast<uint32_t>(b >> 32) ^ counter.x[1] ^ key0, static_cast<uint32_t>(b),
                static_cast<uint32_t>(a >> 32) ^ counter.x[3] ^ key1, static_cast<uint32_t>(a)}};
    key0 += 0x9E3779B9;
    key1 += 0xBB67AE85;
  }
  return counter;
}

// The uniform number of each token at one position, in (0, 1).
class Uniforms {
 public:
  Uniforms(const uint32_t* seed, int32_t position) : seed_(seed), position_(static_cast<uint32_t>(position)) {}

  double of(int32_t token) {
    const uint32_t group = static_cast<uint32_t>(token) / 4;
    if (!filled_ || group != group_) {
      block_ = philox({{group, position_, 0, 0}}, seed_[0], seed_[1]);
      group_ = group;
      filled_ = true;
    }
    return (static_cast<double>(block_.x[token % 4] >> 8) + 0.5) / 16777216.0;
  }

 private:
  const uint32_t* seed_;
  uint32_t position_;
  uint32_t group_ = 0;
  bool filled_ = false;
  Block block_ = {};
};

// ---- filters: each keeps some of the candidates [0, count) and returns how many ---------------------

bool heavier(const Candidate& a, const Candidate& b) {
  return a.weight != b.weight ? a.weight > b.weight : a.token < b.token;
}

// Candidates of weight >= the k-th largest, in their order.
int32_t keepTopK(Candidate* candidates, int32_t count, int32_t k, const float* logits) {
  if (k <= 0 || k >= count) return count;
  std::nth_element(candidates, candidates + (k - 1), candidates + count,
                   [logits](const Candidate& a, const Candidate& b) { return logits[a.token] > logits[b.token]; });
  const float least = logits[candidates[k - 1].token];
  Candidate* end =
      std::partition(candidates + k, candidates + count, [&](const Candidate& c) { return logits[c.token] == least; });
  return static_cast<int32_t>(end - candidates);
}

double sumOf(const Candidate* begin, const Candidate* end) {
  double sum = 0;
  for (; begin != end; ++begin) sum += begin->weight;
  return sum;
}

// The smallest set of heaviest candidates whose share reaches topP: halves the open range by selection, so the whole is
// never sorted.
int32_t keepTopP(Candidate* candidates, int32_t count, double topP) {
  if (!(topP < 1.0)) return count;
  double missing = topP * sumOf(candidates, candidates + count);
  int32_t low = 0;
  int32_t high = count;
  while (high - low > 1) {
    const int32_t middle = low + (high - low) / 2;
    std::nth_element(candidates + low, candidates + middle, candidates + high, heavier);
    const double upper = sumOf(candidates + low, candidates + middle);
    if (upper >= missing) {
      high = middle;
    } else {
      missing -= upper;
      low = middle;
    }
  }
  return high;
}

// ---- one row ---------------------------------------------------------------------------------------

// Index of the largest logit, the lowest among equals; -1 for a row with NaN, +Inf or nothing but -Inf.
int32_t findLargest(const float* logits, int32_t vocab) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  float largest = -kInfinity;
  int32_t index = -1;
  bool finite = true;
  for (int32_t i = 0; i < vocab; ++i) {
    finite &= logits[i] < kInfinity;
    if (logits[i] > largest) {
      largest = logits[i];
      index = i;
    }
  }
  return finite ? index : -1;
}

// Tokens whose probability is not zero and at least minP times the largest; never none, as the largest has weight 1.
int32_t collect(const float* logits, int32_t vocab, float largest, double temperature, double minP, Candidate* into) {
  const double least = minP < 1 ? minP : 1;
  int32_t count = 0;
  for (int32_t i = 0; i < vocab; ++i) {
    const double difference = static_cast<double>(logits[i]) - static_cast<double>(largest);
    const double weight = std::exp(difference / temperature);
    if (weight > 0 && weight >= least) into[count++] = {weight, i};
  }
  return count;
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

int32_t draw(const PagodaSample& op, int32_t row, const float* logits, int32_t largest, Candidate* candidates) {
  const double temperature = op.temperature[row];
  if (!(temperature > 0)) return largest;
  int32_t count = collect(logits, op.logits.width, logits[largest], temperature, op.minP[row], candidates);
  count = keepTopK(candidates, count, op.topK[row], logits);
  count = keepTopP(candidates, count, op.topP[row]);
  return race(candidates, count, Uniforms(op.seed + 2 * static_cast<int64_t>(row), op.position[row]));
}

void sampleRow(const PagodaSample& op, int32_t row, Candidate* candidates) {
  const float* logits = static_cast<const float*>(op.logits.data) + row * op.logits.rowStride;
  const int32_t largest = findLargest(logits, op.logits.width);
  op.finite[row] = largest >= 0 ? 1 : 0;
  op.tokens[row] = largest >= 0 ? draw(op, row, logits, largest, candidates) : 0;
}

// Rows are dealt to this many lanes, each with its own list of candidates.
int32_t lanesOf(const PagodaSample& op, int32_t threads) { return std::min(threads, op.logits.rows); }

bool anyDrawn(const PagodaSample& op) {
  return std::any_of(op.temperature, op.temperature + op.logits.rows, [](float t) { return t > 0; });
}

}  // namespace

uint64_t sampleScratch(const PagodaSample& op, int32_t threads) {
  if (!anyDrawn(op)) return 0;
  return sizeof(Candidate) * static_cast<uint64_t>(lanesOf(op, threads)) * static_cast<uint64_t>(op.logits.width);
}

void sample(ThreadPool& pool, void* scratch, const PagodaSample& op) {
  struct Job {
    const PagodaSample* op;
    Candidate* candidates;
    int32_t lanes;
  } job = {&op, static_cast<Candidate*>(scratch), lanesOf(op, pool.threads())};
  auto body = [](void* context, int32_t begin, int32_t end, int32_t) {
    const Job& job = *static_cast<const Job*>(context);
    for (int32_t lane = begin; lane < end; ++lane) {
      Candidate* candidates = job.candidates + static_cast<int64_t>(lane) * job.op->logits.width;
      for (int32_t row = lane; row < job.op->logits.rows; row += job.lanes) sampleRow(*job.op, row, candidates);
    }
  };
  pool.run(job.lanes, 1, body, &job);
}

}  // namespace pagoda
