// sample against a plain implementation of its definition, its distribution, and rows that are not finite.
#include <algorithm>
#include <array>

#include "cpu-fixture.h"

namespace pagoda::test {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Philox4x32-10, written from the paper and checked against its known answers.
std::array<uint32_t, 4> philox(std::array<uint32_t, 4> c, uint32_t k0, uint32_t k1) {
  for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
    const uint64_t p0 = 0xD2511F53ull * c[0];
    const uint64_t p1 = 0xCD9E8D57ull * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(p0)};
  }
  return c;
}

void testPhilox() {
  section("philox known answers");
  CHECK((philox({0, 0, 0, 0}, 0, 0) == std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  CHECK((philox({~0u, ~0u, ~0u, ~0u}, ~0u, ~0u) ==
         std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
}

struct Row {
  std::vector<float> logits;
  float temperature = 1;
  int32_t topK = 0;
  float topP = 1;
  float minP = 0;
  uint32_t seed[2] = {0, 0};
  int32_t position = 0;
};

struct Result {
  std::vector<int32_t> tokens;
  std::vector<int32_t> finite;
};

Result sample(Device& device, const std::vector<Row>& rows) {
  const int32_t count = static_cast<int32_t>(rows.size());
  const int32_t vocab = static_cast<int32_t>(rows[0].logits.size());
  Guarded logits(static_cast<size_t>(count) * (vocab + 1));
  std::vector<float> temperature, topP, minP;
  std::vector<int32_t> topK, position;
  std::vector<uint32_t> seed;
  for (int32_t s = 0; s < count; ++s) {
    const Row& row = rows[s];
    std::copy(row.logits.begin(), row.logits.end(), logits.data() + static_cast<size_t>(s) * (vocab + 1));
    temperature.push_back(row.temperature);
    topK.push_back(row.topK);
    topP.push_back(row.topP);
    minP.push_back(row.minP);
    position.push_back(row.position);
    seed.insert(seed.end(), row.seed, row.seed + 2);
  }
  Result result = {std::vector<int32_t>(count, -7), std::vector<int32_t>(count, -7)};
  device.run<PagodaSample>(device.api->sample, {.logits = tensorOf(logits, count, vocab, vocab + 1),
                                                .temperature = temperature.data(),
                                                .topK = topK.data(),
                                                .topP = topP.data(),
                                                .minP = minP.data(),
                                                .seed = seed.data(),
                                                .position = position.data(),
                                                .targets = nullptr,
                                                .controls = {},
                                                .tokens = result.tokens.data(),
                                                .finite = result.finite.data(),
                                                .logprobs = {}});
  CHECK(logits.intact());
  return result;
}

// The tokens that the filters keep, by sorting.
std::vector<std::pair<double, int32_t>> kept(const Row& row) {
  const float largest = *std::max_element(row.logits.begin(), row.logits.end());
  std::vector<std::pair<double, int32_t>> all;
  for (size_t i = 0; i < row.logits.size(); ++i) {
    const double weight = std::exp((static_cast<double>(row.logits[i]) - largest) / row.temperature);
    if (weight > 0 && weight >= static_cast<double>(row.minP)) all.push_back({weight, static_cast<int32_t>(i)});
  }
  std::sort(all.begin(), all.end(),
            [](auto a, auto b) { return a.first != b.first ? a.first > b.first : a.second < b.second; });
  if (row.topK > 0 && row.topK < static_cast<int32_t>(all.size())) {
    size_t n = row.topK;
    while (n < all.size() && row.logits[all[n].second] == row.logits[all[n - 1].second]) ++n;
    all.resize(n);
  }
  double total = 0;
  for (const auto& [weight, token] : all) total += weight;
  double sum = 0;
  size_t n = 0;
  while (n < all.size() && (row.topP == 1.0f || n == 0 || sum < static_cast<double>(row.topP) * total))
    sum += all[n++].first;
  all.resize(n);
  return all;
}

int32_t expected(const Row& row) {
  if (row.temperature == 0)
    return static_cast<int32_t>(std::max_element(row.logits.begin(), row.logits.end()) - row.logits.begin());
  double best = -1;
  int32_t winner = -1;
  for (const auto& [weight, token] : kept(row)) {
    const auto words =
        philox({static_cast<uint32_t>(token) / 4, static_cast<uint32_t>(row.position), 0, 0}, row.seed[0], row.seed[1]);
    const double u = ((words[token % 4] >> 8) + 0.5) / 16777216.0;
    const double score = weight / -std::log(u);
    if (score > best || (score == best && token < winner)) {
      best = score;
      winner = token;
    }
  }
  return winner;
}

void testDefinition(Device& device, int32_t vocab, bool ties) {
  section(text("sample vocab %d ties %d", vocab, ties));
  Random random(vocab);
  std::vector<Row> rows;
  for (int32_t i = 0; i < 70; ++i) {
    Row row = {.logits = random.floats(vocab)};
    for (float& x : row.logits) x = ties ? std::round(x * 3) : x * 8;
    for (float& x : row.logits) x = random.below(10) == 0 ? -kInfinity : x;
    row.logits[random.below(vocab)] = 0.5f;
    row.temperature = i % 5 == 0 ? 0.0f : 0.1f + 2 * std::fabs(random.uniform());
    row.topK = i % 3 == 0 ? 0 : 1 + random.below(vocab + 3);
    row.topP = i % 4 == 0 || ties ? 1.0f : 0.05f + 0.9f * std::fabs(random.uniform());
    row.minP = i % 2 == 0 ? 0.0f : 0.3f * std::fabs(random.uniform());
    row.seed[0] = random.next();
    row.seed[1] = random.next();
    row.position = random.below(100000);
    rows.push_back(row);
  }
  const Result result = sample(device, rows);
  for (size_t s = 0; s < rows.size(); ++s) {
    CHECK(result.finite[s] == 1);
    CHECK(result.tokens[s] == expected(rows[s]), "row %zu: %d, expected %d", s, result.tokens[s], expected(rows[s]));
    const Result alone = sample(device, {rows[s]});
    CHECK(alone.tokens[0] == result.tokens[s], "row %zu alone", s);
  }
}

// Frequencies over many positions follow the probabilities.
void testDistribution(Device& device) {
  section("sample distribution");
  constexpr int32_t kDraws = 40000;
  const std::vector<double> probabilities = {0.5, 0.25, 0.15, 0.1};
  Row row;
  for (double p : probabilities) row.logits.push_back(static_cast<float>(2 * std::log(p)));
  row.temperature = 2;
  std::vector<Row> rows(kDraws, row);
  for (int32_t i = 0; i < kDraws; ++i) rows[i].position = i;
  const Result result = sample(device, rows);
  std::vector<int32_t> counts(4, 0);
  for (int32_t token : result.tokens) counts[token] += 1;
  for (int i = 0; i < 4; ++i) {
    const double deviation = std::sqrt(kDraws * probabilities[i] * (1 - probabilities[i]));
    CHECK(std::fabs(counts[i] - kDraws * probabilities[i]) < 5 * deviation, "token %d: %d draws", i, counts[i]);
  }
}

void testFilters(Device& device) {
  section("sample filters");
  std::vector<Row> rows;
  for (int32_t i = 0; i < 200; ++i) {
    rows.push_back({.logits = {0, 3, 3, 2, -kInfinity}, .temperature = 5, .topK = 1, .position = i});
    rows.push_back({.logits = {0, 3, 3, 2, -kInfinity}, .temperature = 5, .topP = 1e-6f, .position = i});
    rows.push_back({.logits = {0, 3, 3, 2, -kInfinity}, .temperature = 1, .minP = 0.3f, .position = i});
    rows.push_back({.logits = {0, 3, 3, 2, -kInfinity}, .temperature = 1e30f, .position = i});
    rows.push_back(
        {.logits = {-kInfinity, -kInfinity, -kInfinity, -1e30f, -kInfinity}, .temperature = 1e-30f, .position = i});
  }
  for (int32_t i = 0; i < 50; ++i) {
    const Result half = sample(device, {{.logits = {1, 1, -kInfinity}, .topP = 0.5f, .position = i}});
    CHECK(half.tokens[0] == 0, "a share of exactly topP is enough");
  }
  const Result result = sample(device, rows);
  std::vector<std::vector<int32_t>> counts(5, std::vector<int32_t>(5, 0));
  for (size_t s = 0; s < rows.size(); ++s) counts[s % 5][result.tokens[s]] += 1;
  CHECK(counts[0][1] > 50 && counts[0][2] > 50 && counts[0][1] + counts[0][2] == 200, "topK keeps ties");
  CHECK(counts[1][1] == 200, "topP keeps the first of the most probable");
  CHECK(counts[2][0] == 0 && counts[2][3] > 10 && counts[2][4] == 0, "minP");
  CHECK(counts[3][0] > 20 && counts[3][1] > 20 && counts[3][2] > 20 && counts[3][3] > 20 && counts[3][4] == 0,
        "high temperature");
  CHECK(counts[4][3] == 200, "the only token");
}

void testNotFinite(Device& device) {
  section("sample not finite");
  std::vector<Row> rows;
  for (float temperature : {0.0f, 1.0f}) {
    rows.push_back({.logits = {1, kNaN, 2}, .temperature = temperature});
    rows.push_back({.logits = {1, kInfinity, 2}, .temperature = temperature});
    rows.push_back({.logits = {-kInfinity, -kInfinity, -kInfinity}, .temperature = temperature});
    rows.push_back({.logits = {kNaN, kNaN, kNaN}, .temperature = temperature});
    rows.push_back({.logits = {-kInfinity, -3e38f, -kInfinity}, .temperature = temperature});
    rows.push_back({.logits = {2, 2, 2}, .temperature = temperature});
  }
  const Result result = sample(device, rows);
  for (size_t s = 0; s < rows.size(); ++s) {
    CHECK(result.finite[s] == (s % 6 >= 4 ? 1 : 0), "row %zu", s);
    if (s % 6 < 4) CHECK(result.tokens[s] == 0, "row %zu", s);
    if (s % 6 == 4) CHECK(result.tokens[s] == 1, "row %zu", s);
  }
  CHECK(result.tokens[5] == 0, "lowest index among equals");
}

// Parameters out of range must still give a token that is not masked.
void testNonsense(Device& device) {
  section("sample nonsense parameters");
  const float values[] = {kNaN, -1, 0, 2, kInfinity, -kInfinity};
  std::vector<Row> rows;
  for (float temperature : values) {
    for (float topP : values) {
      for (float minP : values) {
        rows.push_back({.logits = {-kInfinity, 1, 2, -kInfinity},
                        .temperature = temperature,
                        .topK = -5,
                        .topP = topP,
                        .minP = minP,
                        .position = -1});
      }
    }
  }
  const Result result = sample(device, rows);
  for (size_t s = 0; s < rows.size(); ++s) {
    CHECK(result.tokens[s] == 1 || result.tokens[s] == 2, "temperature %g topP %g minP %g: %d",
          static_cast<double>(rows[s].temperature), static_cast<double>(rows[s].topP),
          static_cast<double>(rows[s].minP), result.tokens[s]);
  }
}

// Lists of random ids, one a row.
struct RandomLists {
  std::vector<int32_t> values;
  std::vector<int32_t> offsets = {0};

  RandomLists(Random& random, int32_t rows, int32_t vocab, int32_t longest, bool increasing) {
    for (int32_t row = 0; row < rows; ++row) {
      std::vector<int32_t> list(random.below(longest + 1));
      for (int32_t& id : list) id = random.below(vocab);
      if (increasing) std::sort(list.begin(), list.end());
      if (increasing) list.erase(std::unique(list.begin(), list.end()), list.end());
      values.insert(values.end(), list.begin(), list.end());
      offsets.push_back(static_cast<int32_t>(values.size()));
    }
  }
  PagodaLists lists() const { return {values.data(), offsets.data()}; }
  bool has(int32_t row, int32_t id) const {
    const auto end = values.begin() + offsets[row + 1];
    return std::find(values.begin() + offsets[row], end, id) != end;
  }
  bool empty(int32_t row) const { return offsets[row] == offsets[row + 1]; }
  int32_t size(int32_t row) const { return offsets[row + 1] - offsets[row]; }
};

// Random controls: no foreign memory is touched (under sanitizers), no masked token drawn, no logit changed.
void testControls(Device& device, int32_t vocab) {
  section(text("sample controls vocab %d", vocab));
  constexpr int32_t kRows = 60, kTop = 4;
  Random random(vocab + 77);
  const Guarded original(random.floats(static_cast<size_t>(kRows) * vocab));
  Guarded logits = original;
  const RandomLists allowed(random, kRows, vocab, 6, true), banned(random, kRows, vocab, 6, false),
      biased(random, kRows, vocab, 6, true), history(random, kRows, vocab < 4 ? vocab : 4, 50, false),
      breakers(random, kRows, vocab, 2, true);
  const std::vector<float> biases(biased.values.size(), -2.5f);
  const auto reals = [&](float low, float high) {
    std::vector<float> values(kRows);
    for (float& value : values) value = low + (high - low) * std::fabs(random.uniform());
    return values;
  };
  std::vector<int32_t> topK(kRows, 0), position(kRows, 5), prompts(kRows), lengths(kRows, 2), ranges(kRows),
      wanted(kRows);
  for (int32_t row = 0; row < kRows; ++row) {
    prompts[row] = random.below(history.size(row) + 1);
    ranges[row] = random.below(60);
    wanted[row] = random.below(kTop + 2) - 1;
  }
  const std::vector<uint32_t> seed(2 * kRows, 9);
  const std::vector<float> temperature = reals(-0.5f, 2), one(kRows, 1), zero(kRows, 0), penalty = reals(0.5f, 2),
                           small = reals(0, 1), share = reals(0.1f, 1);
  std::vector<int32_t> tokens(kRows, -7), finite(kRows, -7), rank(kRows), topIds(kRows * kTop, -7);
  std::vector<float> logprob(kRows), topLogprobs(kRows * kTop);
  PagodaSample op = {};
  op.logits = tensorOf(logits, kRows, vocab, vocab);
  op.temperature = temperature.data(), op.topK = topK.data(), op.topP = one.data(), op.minP = zero.data();
  op.seed = seed.data(), op.position = position.data();
  op.controls = {allowed.lists(), banned.lists(),   biased.lists(), biases.data(), history.lists(), prompts.data(),
                 penalty.data(),  small.data(),     small.data(),   small.data(),  penalty.data(),  lengths.data(),
                 ranges.data(),   breakers.lists(), share.data(),   small.data(),  small.data(),    50};
  op.tokens = tokens.data(), op.finite = finite.data();
  op.logprobs = {wanted.data(), kTop, logprob.data(), rank.data(), topIds.data(), topLogprobs.data()};
  device.run<PagodaSample>(device.api->sample, op);
  CHECK(logits.intact() && sameBits(logits.data(), original.data(), original.size()), "logits are not changed");
  for (int32_t row = 0; row < kRows; ++row) {
    const auto isKept = [&](int32_t id) {
      return (allowed.empty(row) || allowed.has(row, id)) && !banned.has(row, id);
    };
    bool any = false;
    for (int32_t id = 0; id < vocab; ++id) any = any || isKept(id);
    CHECK(finite[row] == (any ? 1 : 0), "row %d", row);
    if (!any) continue;
    CHECK(tokens[row] >= 0 && tokens[row] < vocab && isKept(tokens[row]), "row %d: %d", row, tokens[row]);
    if (wanted[row] < 0) continue;
    CHECK(logprob[row] <= 0 && rank[row] >= 1 && rank[row] <= vocab, "row %d", row);
    const int32_t count = std::min(wanted[row], vocab);
    for (int32_t i = 0; i < kTop; ++i) {
      const int32_t id = topIds[row * kTop + i];
      CHECK(i < count ? id >= 0 && id < vocab : id == -1, "row %d top %d: %d", row, i, id);
      if (i > 0 && i < count) CHECK(topLogprobs[row * kTop + i] <= topLogprobs[row * kTop + i - 1]);
    }
  }
}

}  // namespace
}  // namespace pagoda::test

int main() {
  using namespace pagoda::test;
  Device device(nullptr, 2);
  testPhilox();
  for (int32_t vocab : {1, 2, 3, 17, 100, 5000}) {
    testDefinition(device, vocab, false);
    testDefinition(device, vocab, true);
  }
  testDistribution(device);
  testFilters(device);
  testNotFinite(device);
  testNonsense(device);
  for (int32_t vocab : {1, 2, 3, 17, 1000}) testControls(device, vocab);
  return finish();
}
