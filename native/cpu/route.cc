// The experts of each row and their weights. A row is done by one worker, on its own.
#include "isa-kernels.h"

namespace pagoda::PAGODA_ISA {
namespace {

// Of one worker.
struct Scratch {
  float* scores;  // [numExperts]
  float* keys;    // [numExperts]
  float* groups;  // [numGroups], keys of groups
  uint8_t* open;  // [numExperts], whether an expert can still be chosen
  uint8_t* openGroups;
};

int64_t scratchBytes(const PagodaRoute& op) {
  const int64_t floats = 2 * static_cast<int64_t>(op.logits.width) + op.numGroups;
  return roundUp(floats * static_cast<int64_t>(sizeof(float)) + op.logits.width + op.numGroups, 64);
}

Scratch scratchOf(const PagodaRoute& op, void* memory) {
  float* scores = static_cast<float*>(memory);
  float* keys = scores + op.logits.width;
  float* groups = keys + op.logits.width;
  uint8_t* open = reinterpret_cast<uint8_t*>(groups + op.numGroups);
  return {scores, keys, groups, open, open + op.logits.width};
}

void sigmoid(const float* logits, int32_t count, float* scores) {
  forVectors(count, [&](int32_t i, int n) {
    const f32v e = exp(sub(zero(), loadSome(logits + i, n)));
    storeSome(scores + i, div(broadcast(1.0f), add(broadcast(1.0f), e)), n);
  });
}

void softmax(const float* logits, int32_t count, float* scores) {
  float largest = -__builtin_inff();
  for (int32_t i = 0; i < count; ++i) largest = logits[i] > largest ? logits[i] : largest;
  forVectors(count, [&](int32_t i, int n) {
    storeSome(scores + i, exp(sub(loadSome(logits + i, n), broadcast(largest))), n);
  });
  float total = 0;
  for (int32_t i = 0; i < count; ++i) total += scores[i];
  forVectors(count,
             [&](int32_t i, int n) { storeSome(scores + i, div(loadSome(scores + i, n), broadcast(total)), n); });
}

// Whether key `a` is chosen before a `b` that stands in front of it. NaN comes first, so that it shows.
bool precedes(float a, float b) { return a > b || (a != a && b == b); }

// Closes the best of those that are open, of which there is one, and returns its index.
int32_t takeBest(const float* keys, uint8_t* open, int32_t count) {
  int32_t best = -1;
  for (int32_t i = 0; i < count; ++i) {
    if (open[i] != 0 && (best < 0 || precedes(keys[i], keys[best]))) best = i;
  }
  open[best] = 0;
  return best;
}

float groupKey(const float* keys, int32_t size, PagodaGroupScore kind) {
  float first = -__builtin_inff();
  float second = first;
  for (int32_t i = 0; i < size; ++i) {
    if (precedes(keys[i], first)) {
      second = first;
      first = keys[i];
    } else if (precedes(keys[i], second)) {
      second = keys[i];
    }
  }
  return kind == PAGODA_GROUP_MAX ? first : first + second;
}

// Opens the experts of the best groups.
void openExperts(const PagodaRoute& op, const Scratch& scratch) {
  const int32_t size = op.logits.width / op.numGroups;
  const bool isGrouped = op.topGroups < op.numGroups;
  for (int32_t e = 0; e < op.logits.width; ++e) scratch.open[e] = isGrouped ? 0 : 1;
  if (!isGrouped) return;
  for (int32_t g = 0; g < op.numGroups; ++g) {
    scratch.groups[g] = groupKey(scratch.keys + g * size, size, op.groupScore);
    scratch.openGroups[g] = 1;
  }
  for (int32_t i = 0; i < op.topGroups; ++i) {
    uint8_t* open = scratch.open + takeBest(scratch.groups, scratch.openGroups, op.numGroups) * size;
    for (int32_t e = 0; e < size; ++e) open[e] = 1;
  }
}

void routeRow(const PagodaRoute& op, int32_t row, const Scratch& scratch) {
  const float* logits = rowOf(op.logits, row);
  const float* bias = static_cast<const float*>(op.bias.data);
  float* weights = rowOf(op.out, row);
  float* experts = weights + op.topK;
  const auto score = op.scoring == PAGODA_SIGMOID ? sigmoid : softmax;
  score(logits, op.logits.width, scratch.scores);
  for (int32_t e = 0; e < op.logits.width; ++e) {
    scratch.keys[e] = bias == nullptr ? scratch.scores[e] : scratch.scores[e] + bias[e];
  }
  openExperts(op, scratch);
  float total = 0;
  for (int32_t slot = 0; slot < op.topK; ++slot) {
    const int32_t expert = takeBest(scratch.keys, scratch.open, op.logits.width);
    experts[slot] = static_cast<float>(expert);
    weights[slot] = scratch.scores[expert];
    total += weights[slot];
  }
  const float divisor = op.normalize != 0 ? total + 1e-20f : 1.0f;
  for (int32_t slot = 0; slot < op.topK; ++slot) weights[slot] = weights[slot] / divisor * op.scale;
}

}  // namespace

uint64_t routeScratch(const PagodaRoute& op, int32_t threads) { return threads * scratchBytes(op); }

void route(const KernelContext& context, const PagodaRoute& op) {
  auto rows = [&](int32_t begin, int32_t end, int32_t worker) {
    const Scratch scratch = scratchOf(op, static_cast<char*>(context.scratch) + worker * scratchBytes(op));
    for (int32_t row = begin; row < end; ++row) routeRow(op, row, scratch);
  };
  parallel(context.pool, op.out.rows, maximum(1, 2048 / op.logits.width), rows);
}

}  // namespace pagoda::PAGODA_ISA
