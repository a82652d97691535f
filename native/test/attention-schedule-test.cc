// The schedule of attention: every query tile and split once, no part much longer than the others, within its room.
#include "../cpu/attention-schedule.h"

#include <algorithm>
#include <map>
#include <tuple>
#include <vector>

#include "check.h"

namespace pagoda::test {
namespace {

constexpr int32_t kTokensPerTile = 32;

// Requests as (context, tokens of this step).
struct Case {
  std::vector<std::pair<int32_t, int32_t>> requests;
  int32_t kvHeads;
  int32_t threads;
  int32_t slidingWindow = 0;
};

struct Result {
  AttentionSchedule schedule;
  std::vector<AttentionPart> parts;
  std::vector<AttentionPart> cut;
};

Result runCase(const Case& c) {
  std::vector<int32_t> starts = {0}, lengths;
  for (const auto& [context, tokens] : c.requests) {
    starts.push_back(starts.back() + tokens);
    lengths.push_back(context + tokens);
  }
  PagodaAttention op = {};
  op.numHeads = 4 * c.kvHeads;
  op.cache.numKvHeads = c.kvHeads;
  op.slidingWindow = c.slidingWindow;
  op.batch.numRequests = static_cast<int32_t>(lengths.size());
  op.batch.numTokens = starts.back();
  op.batch.queryStartLoc = starts.data();
  op.batch.seqLens = lengths.data();
  const int64_t most = mostAttentionParts(op.batch, kTokensPerTile, c.threads);
  Result result = {{}, std::vector<AttentionPart>(most), std::vector<AttentionPart>(most)};
  const AttentionSchedule counted = scheduleAttention(op, kTokensPerTile, c.threads, nullptr, nullptr);
  result.schedule = scheduleAttention(op, kTokensPerTile, c.threads, result.parts.data(), result.cut.data());
  CHECK(counted.numParts == result.schedule.numParts && counted.numCut == result.schedule.numCut &&
        counted.numStates == result.schedule.numStates);
  CHECK(counted.numParts <= most && counted.numCut <= most);
  result.parts.resize(counted.numParts);
  result.cut.resize(counted.numCut);
  return result;
}

void testCoverage(const Case& c) {
  section(text("schedule of %zu requests, %d heads, %d threads, window %d", c.requests.size(), c.kvHeads, c.threads,
               c.slidingWindow));
  const Result result = runCase(c);
  std::map<std::tuple<int32_t, int32_t>, int> seen;  // by row and split
  std::map<int64_t, int> states;
  for (const AttentionPart& part : result.parts) {
    for (int32_t split = part.firstSplit; split < part.endSplit; ++split) {
      for (int32_t t = 0; t < part.tokens; ++t) ++seen[{part.row + t, split}];
      if (part.firstState >= 0) ++states[part.firstState + (split - part.firstSplit) * c.kvHeads];
    }
  }
  size_t expected = 0;
  int32_t row = 0;
  for (const auto& [context, tokens] : c.requests) {
    for (int32_t t = 0; t < tokens; ++t, ++row) {
      const int32_t position = context + t;
      const int32_t first = c.slidingWindow > 0 ? std::max(0, position - c.slidingWindow + 1) : 0;
      for (int32_t split = first / kSplitKeys; split <= position / kSplitKeys; ++split) {
        CHECK((seen[{row, split}]) == 1, "row %d split %d", row, split);
      }
    }
  }
  for (const auto& [key, count] : seen) expected += count == 1 ? 1 : 0;
  CHECK(expected == seen.size(), "a split twice");
  CHECK(static_cast<int64_t>(states.size()) * c.kvHeads == result.schedule.numStates);
  for (const auto& [state, count] : states) CHECK(count == 1, "state %ld", static_cast<long>(state));
}

// One long request on many threads is cut so that none of them has nothing to do.
void testOneLongRequest() {
  section("schedule of one long request");
  const Result result = runCase({{{16383, 1}}, 1, 8});
  CHECK(result.schedule.numCut == 1);
  CHECK(result.parts.size() >= 16, "%zu parts", result.parts.size());
  int32_t longest = 0;
  for (const AttentionPart& part : result.parts) longest = std::max(longest, part.endSplit - part.firstSplit);
  CHECK(longest == 1, "%d splits", longest);
}

// Many equal requests keep all threads busy as they are.
void testManyRequests() {
  section("schedule of many requests");
  const Result result = runCase({std::vector<std::pair<int32_t, int32_t>>(32, {4000, 1}), 8, 8});
  CHECK(result.schedule.numCut == 0 && result.parts.size() == 32);
}

// Those with most keys come first.
void testOrder() {
  section("order of the schedule");
  const Result result = runCase({{{100, 1}, {5000, 1}, {900, 1}, {2000, 1}}, 8, 1});
  std::vector<int32_t> positions;
  for (const AttentionPart& part : result.parts) positions.push_back(part.position);
  CHECK(positions == std::vector<int32_t>({5000, 2000, 900, 100}));
}

}  // namespace
}  // namespace pagoda::test

int main() {
  using namespace pagoda::test;
  for (int32_t threads : {1, 2, 7, 64}) {
    for (int32_t window : {0, 1, 600}) {
      testCoverage({{{16383, 1}}, 1, threads, window});
      testCoverage({{{0, 1}, {5000, 1}, {511, 3}, {512, 0}, {1023, 1}}, 2, threads, window});
      testCoverage({{{0, 700}, {3000, 33}, {20000, 1}}, 8, threads, window});
    }
  }
  testOneLongRequest();
  testManyRequests();
  testOrder();
  return finish();
}
