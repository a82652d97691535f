#include "logits-processors.h"

#include <algorithm>
#include <limits>

namespace pagoda {
namespace {

constexpr float kMasked = -std::numeric_limits<float>::infinity();

struct List {
  const int32_t* begin;
  const int32_t* end;

  int32_t size() const { return static_cast<int32_t>(end - begin); }
  bool empty() const { return begin == end; }
  bool contains(int32_t id) const { return std::binary_search(begin, end, id); }
};

List listOf(const PagodaLists& lists, int32_t row) {
  const int32_t begin = lists.offsets[row], end = lists.offsets[row + 1];
  if (begin == end) return {nullptr, nullptr};  // values may be NULL
  return {lists.values + begin, lists.values + end};
}

// Finite logits stay finite.
float clampFinite(double value) {
  constexpr double kLargest = std::numeric_limits<float>::max();
  return static_cast<float>(std::clamp(value, -kLargest, kLargest));
}

void maskAllBut(float* logits, int32_t vocab, const List& allowed) {
  if (allowed.empty()) return;
  const int32_t* next = allowed.begin;
  for (int32_t i = 0; i < vocab; ++i) {
    if (next != allowed.end && *next == i)
      ++next;
    else
      logits[i] = kMasked;
  }
}

float repeated(float logit, float penalty) {
  if (logit == kMasked) return logit;
  return clampFinite(static_cast<double>(logit > 0 ? logit / penalty : logit * penalty));
}

// Counts of -1 mark tokens that are done, so that each is changed once; only counts of the history's tokens are used.
void applyPenalties(const PagodaSampleControls& c, int32_t row, const ProcessorScratch& scratch) {
  const float repetition = c.repetitionPenalty[row], frequency = c.frequencyPenalty[row],
              presence = c.presencePenalty[row];
  if (repetition == 1 && frequency == 0 && presence == 0) return;
  const List history = listOf(c.history, row);
  int32_t* counts = scratch.counts;
  for (const int32_t* token = history.begin; token != history.end; ++token) counts[*token] = 0;
  for (const int32_t* token = history.begin + c.numPromptTokens[row]; token != history.end; ++token)
    counts[*token] += 1;
  for (const int32_t* token = history.begin; token != history.end; ++token) {
    const int32_t count = counts[*token];
    if (count < 0) continue;
    counts[*token] = -1;
    float& logit = scratch.logits[*token];
    if (repetition != 1) logit = repeated(logit, repetition);
    if (count == 0) continue;
    const float sum = frequency * static_cast<float>(count);
    logit = logit - sum;
    logit = logit - presence;
  }
}

// lengths[i], i > 0: how many of the last tokens equal those that end i tokens before the end. The Z function of the
// tokens read backwards, in linear time.
void matchLengths(const List& tokens, int32_t* lengths) {
  const int32_t n = tokens.size();
  const auto backwards = [&](int32_t i) { return tokens.end[-1 - i]; };
  int32_t left = 0, right = 0;
  for (int32_t i = 1; i < n; ++i) {
    int32_t length = i < right ? std::min(right - i, lengths[i - left]) : 0;
    while (i + length < n && backwards(length) == backwards(i + length)) ++length;
    lengths[i] = length;
    if (i + length > right) left = i, right = i + length;
  }
}

// base^exponent by squaring: the same bits on every machine.
double power(double base, int32_t exponent) {
  double result = 1;
  for (; exponent > 0; exponent /= 2, base *= base)
    if (exponent % 2 == 1) result *= base;
  return result;
}

float dryPenalized(float logit, double multiplier, double base, int32_t exponent) {
  if (logit == kMasked) return logit;
  constexpr double kLargestPenalty = 1e30;
  return clampFinite(static_cast<double>(logit) - std::min(multiplier * power(base, exponent), kLargestPenalty));
}

void applyDry(const PagodaSampleControls& c, int32_t row, const ProcessorScratch& scratch) {
  const double multiplier = c.dryMultiplier[row];
  if (!(multiplier > 0)) return;
  const List history = listOf(c.history, row);
  const List tokens = {history.end - std::min(history.size(), c.dryRange[row]), history.end};
  const List breakers = listOf(c.dryBreakers, row);
  const int32_t allowed = c.dryAllowedLength[row], n = tokens.size();
  int32_t limit = 0;  // the longest end without a breaker
  while (limit < n && !breakers.contains(tokens.end[-1 - limit])) ++limit;
  if (limit < allowed) return;
  matchLengths(tokens, scratch.lengths);
  int32_t* longest = scratch.counts;
  const auto follower = [&](int32_t i) { return tokens.end[-i]; };
  for (int32_t i = 1; i < n; ++i) longest[follower(i)] = 0;
  for (int32_t i = 1; i < n; ++i) {
    int32_t& best = longest[follower(i)];
    best = std::max(best, std::min(scratch.lengths[i], limit));
  }
  for (int32_t i = 1; i < n; ++i) {
    const int32_t token = follower(i), length = longest[token];
    longest[token] = 0;  // done
    if (length < allowed || breakers.contains(token)) continue;
    float& logit = scratch.logits[token];
    logit = dryPenalized(logit, multiplier, c.dryBase[row], length - allowed);
  }
}

bool changesLogits(const PagodaSampleControls& c, int32_t row) {
  return !listOf(c.allowed, row).empty() || !listOf(c.banned, row).empty() || !listOf(c.biased, row).empty() ||
         !listOf(c.history, row).empty();
}

}  // namespace

bool hasControls(const PagodaSample& op) { return op.controls.typicalP != nullptr; }

const float* processLogits(const PagodaSample& op, int32_t row, const float* raw, const ProcessorScratch& scratch) {
  const PagodaSampleControls& c = op.controls;
  if (!hasControls(op) || !changesLogits(c, row)) return raw;
  float* logits = scratch.logits;
  std::copy(raw, raw + op.logits.width, logits);
  maskAllBut(logits, op.logits.width, listOf(c.allowed, row));
  const List banned = listOf(c.banned, row);
  for (const int32_t* id = banned.begin; id != banned.end; ++id) logits[*id] = kMasked;
  const List biased = listOf(c.biased, row);
  for (const int32_t* id = biased.begin; id != biased.end; ++id) logits[*id] += c.biases[id - c.biased.values];
  applyPenalties(c, row, scratch);
  applyDry(c, row, scratch);
  return logits;
}

}  // namespace pagoda
