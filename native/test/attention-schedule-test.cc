// The schedule of attention: every query tile and split once, no part much longer than the others, together what lies
// in the same blocks, within its room.
#include <algorithm>
#include <map>
#include <tuple>
#include <vector>

#include "../cpu/attention-scheduler.h"
#include "../cpu/state-tree.h"
#include "check.h"

namespace pagoda::test {
namespace {

constexpr int32_t kBlockSize = 16;
constexpr int32_t kHeadDim = 508;
constexpr int64_t kMostStateRows = (64 << 20) / (4 * (kHeadDim + 4));
constexpr int32_t kGroup = 4;  // query heads of a KV head

// The blocks of a request up to the `tokens`-th are those of prefix `name`.
struct Prefix {
  int32_t name;
  int32_t tokens;
};

struct Request {
  int32_t context;
  int32_t tokens;  // of this step
  std::vector<Prefix> prefixes = {};
};

struct Case {
  std::vector<Request> requests;
  int32_t kvHeads;
  int32_t threads;
  int32_t slidingWindow = 0;
};

// A batch, its block table and what the scheduler makes of it.
class Result {
 public:
  explicit Result(const Case& c) : starts_({0}) {
    int32_t maxBlocks = 1;
    for (const Request& request : c.requests) {
      starts_.push_back(starts_.back() + request.tokens);
      lengths_.push_back(request.context + request.tokens);
      maxBlocks = std::max(maxBlocks, lengths_.back() / kBlockSize + 1);
    }
    table_.assign(maxBlocks * c.requests.size(), -1);
    for (size_t r = 0; r < c.requests.size(); ++r) fillTable(c.requests[r], table_.data() + r * maxBlocks);
    op_.numHeads = kGroup * c.kvHeads;
    op_.cache.numKvHeads = c.kvHeads;
    op_.cache.blockSize = kBlockSize;
    op_.cache.headDim = kHeadDim;
    op_.slidingWindow = c.slidingWindow;
    op_.batch = {static_cast<int32_t>(lengths_.size()),
                 starts_.back(),
                 maxBlocks,
                 0,
                 0,
                 starts_.data(),
                 lengths_.data(),
                 table_.data()};
    schedule = scheduler_.schedule(op_, c.threads);
    parts.assign(schedule.parts, schedule.parts + schedule.numParts);
    finishes.assign(schedule.finishes, schedule.finishes + schedule.numFinishes);
  }
  Result(const Result&) = delete;
  Result& operator=(const Result&) = delete;

  const QueryTile& tile(const AttentionPart& part, int32_t member = 0) const {
    return schedule.tiles[schedule.members[part.firstMember + member]];
  }

  // Whether a tile has the same blocks of a split as another one.
  bool sameBlocks(const QueryTile& a, const QueryTile& b, int32_t split) const {
    const int32_t perSplit = kSplitKeys / kBlockSize;
    const auto blocks = [&](const QueryTile& tile) {
      return table_.begin() + static_cast<int64_t>(tile.request) * op_.batch.maxBlocks + split * perSplit;
    };
    return std::equal(blocks(a), blocks(a) + perSplit, blocks(b));
  }

  AttentionSchedule schedule;
  std::vector<AttentionPart> parts, finishes;

 private:
  void fillTable(const Request& request, int32_t* blocks) {
    int32_t block = 0;
    for (const Prefix& prefix : request.prefixes) {
      for (; block < prefix.tokens / kBlockSize; ++block) {
        const auto [found, isNew] = named_.insert({{prefix.name, block}, nextBlock_});
        nextBlock_ += isNew ? 1 : 0;
        blocks[block] = found->second;
      }
    }
    for (; block * kBlockSize < request.context + request.tokens; ++block) blocks[block] = nextBlock_++;
  }

  std::vector<int32_t> starts_, lengths_, table_;
  std::map<std::tuple<int32_t, int32_t>, int32_t> named_;
  int32_t nextBlock_ = 1;
  PagodaAttention op_ = {};
  AttentionScheduler scheduler_;
};

bool seesAll(const QueryTile& tile, int32_t split, int32_t window) {
  const int32_t last = tile.position + tile.tokens - 1;
  return tile.position + 1 >= (split + 1) * kSplitKeys && (window == 0 || last - window + 1 <= split * kSplitKeys);
}

// Each token attends to each of its splits once.
void checkCoverage(const Case& c, const Result& result) {
  std::map<std::tuple<int32_t, int32_t>, int> seen;  // by row and split
  for (const auto* parts : {&result.parts, &result.finishes}) {
    for (const AttentionPart& part : *parts) {
      for (int32_t m = 0; m < part.numMembers; ++m) {
        for (int32_t split = part.firstSplit; split < part.endSplit; ++split) {
          for (int32_t t = 0; t < result.tile(part, m).tokens; ++t) ++seen[{result.tile(part, m).row + t, split}];
        }
      }
    }
  }
  size_t expected = 0;
  int32_t row = 0;
  for (const Request& request : c.requests) {
    for (int32_t t = 0; t < request.tokens; ++t, ++row) {
      const int32_t position = request.context + t;
      const int32_t first = c.slidingWindow > 0 ? std::max(0, position - c.slidingWindow + 1) : 0;
      for (int32_t split = first / kSplitKeys; split <= position / kSplitKeys; ++split) {
        CHECK((seen[{row, split}]) == 1, "row %d split %d", row, split);
      }
    }
  }
  for (const auto& [key, count] : seen) expected += count == 1 ? 1 : 0;
  CHECK(expected == seen.size(), "a split twice");
}

// Tiles of one part see all keys of its splits, in the same blocks.
void checkShared(const Case& c, const Result& result) {
  for (const AttentionPart& part : result.parts) {
    int32_t tokens = 0;
    for (int32_t m = 0; m < part.numMembers; ++m) {
      const QueryTile& tile = result.tile(part, m);
      tokens += tile.tokens;
      for (int32_t split = part.firstSplit; part.numMembers > 1 && split < part.endSplit; ++split) {
        CHECK(seesAll(tile, split, c.slidingWindow) && result.sameBlocks(tile, result.tile(part), split));
      }
    }
    CHECK(tokens == part.tokens && tokens <= result.schedule.tokensPerTile, "%d tokens", tokens);
    CHECK(part.numMembers == 1 || !part.finishes);
  }
}

// The state of a tile that begins at a split, -1: none.
int32_t stateAt(const Result& result, const QueryTile& tile, int32_t split) {
  const int32_t* begins = result.schedule.stateBegins + tile.firstBegin;
  const int32_t* found = std::find(begins, begins + tile.numStates, split);
  return found == begins + tile.numStates ? -1 : static_cast<int32_t>(found - begins);
}

// States are written once, by parts of the first pass, and lie beside each other.
void checkStates(const Case& c, const Result& result) {
  std::map<int64_t, int> states;  // by the first of their rows
  int64_t rows = 0;
  for (const AttentionPart& part : result.parts) {
    for (int32_t m = 0; !part.finishes && m < part.numMembers; ++m) {
      const QueryTile& tile = result.tile(part, m);
      const int64_t stateRows = static_cast<int64_t>(tile.tokens) * kGroup * c.kvHeads;
      forNodes(part.firstSplit, part.endSplit, [&](int32_t begin, int32_t) {
        const int32_t state = stateAt(result, tile, begin);
        CHECK(state >= 0, "no state for split %d", begin);
        ++states[tile.firstState + state * stateRows];
        rows += stateRows;
      });
    }
  }
  for (const auto& [state, count] : states) CHECK(count == 1, "state %ld", static_cast<long>(state));
  CHECK(rows == result.schedule.numStateRows && rows <= kMostStateRows, "%ld rows", static_cast<long>(rows));
  for (const AttentionPart& part : result.parts) CHECK(!part.finishes || result.tile(part).numStates == 0);
  for (const AttentionPart& part : result.finishes) CHECK(part.finishes && result.tile(part).numStates > 0);
}

void testCase(const Case& c) {
  section(text("schedule of %zu requests, %d heads, %d threads, window %d", c.requests.size(), c.kvHeads, c.threads,
               c.slidingWindow));
  const Result result(c);
  checkCoverage(c, result);
  checkShared(c, result);
  checkStates(c, result);
}

// One long request on many threads is cut so that none of them has nothing to do.
void testOneLongRequest() {
  section("schedule of one long request");
  const Result result({{{16383, 1}}, 1, 8});
  CHECK(result.finishes.size() == 1);
  CHECK(result.parts.size() >= 16, "%zu parts", result.parts.size());
  int32_t longest = 0;
  for (const AttentionPart& part : result.parts) longest = std::max(longest, part.endSplit - part.firstSplit);
  CHECK(longest == 1, "%d splits", longest);
}

// States are needed for the pieces that a request is cut into, not for its keys.
void testStatesOfLongContexts() {
  section("states of long contexts");
  int64_t most = 0;
  for (int32_t splits = 64; splits <= 1 << 16; splits *= 2) {
    for (int32_t more : {0, 1, 3, splits / 3}) {
      const Result result({{{(splits + more) * kSplitKeys - 7, 1}}, 1, 2});
      CHECK(result.parts.size() == 8, "%zu parts", result.parts.size());
      most = std::max(most, result.schedule.numStateRows / kGroup);
    }
  }
  CHECK(most <= 4 * 8, "%ld states", static_cast<long>(most));
}

// Many equal requests keep all threads busy as they are.
void testManyRequests() {
  section("schedule of many requests");
  const Result result({std::vector<Request>(32, {4000, 1}), 8, 8});
  CHECK(result.finishes.empty() && result.parts.size() == 32);
}

// Those with most keys come first.
void testOrder() {
  section("order of the schedule");
  const Result result({{{100, 1}, {5000, 1}, {900, 1}, {2000, 1}}, 8, 1});
  std::vector<int32_t> positions;
  for (const AttentionPart& part : result.parts) positions.push_back(result.tile(part).position);
  CHECK(positions == std::vector<int32_t>({5000, 2000, 900, 100}));
}

// ---- shared prefixes -------------------------------------------------------------------------------

// Requests (members) and splits of the parts of several tiles, in order of the splits.
std::vector<std::tuple<int32_t, int32_t, int32_t>> sharedParts(const Result& result) {
  std::vector<std::tuple<int32_t, int32_t, int32_t>> shared;
  for (const AttentionPart& part : result.parts) {
    if (part.numMembers > 1) shared.push_back({part.firstSplit, part.endSplit, part.numMembers});
  }
  std::sort(shared.begin(), shared.end());
  return shared;
}
using Parts = std::vector<std::tuple<int32_t, int32_t, int32_t>>;

std::vector<Request> star(int32_t requests, int32_t prefix, int32_t own) {
  std::vector<Request> all;
  for (int32_t r = 0; r < requests; ++r) all.push_back({prefix + own + r, 1, {{1, prefix}}});
  return all;
}

// One part for all requests and whole splits of the prefix; each finishes what it has of its own.
void testSharedPrefix() {
  section("schedule of a shared prefix");
  const Result result({star(32, 4096 + 100, 50), 8, 2});
  CHECK(sharedParts(result) == Parts({{0, 8, 32}}));
  CHECK(result.parts.size() == 1 && result.finishes.size() == 32);
  CHECK(result.schedule.numStateRows == 32 * kGroup * 8, "a state each");
}

// More requests than a part may have rows are spread evenly; a part for many workers has fewer splits, or fewer rows.
void testBalance() {
  section("balance of shared prefixes");
  CHECK(sharedParts(Result({star(33, 1024, 8), 8, 1})) == Parts({{0, 2, 16}, {0, 2, 17}}));
  CHECK(sharedParts(Result({star(32, 4096, 8), 1, 2})) ==
        Parts({{0, 1, 32}, {1, 2, 32}, {2, 3, 32}, {3, 4, 32}, {4, 5, 32}, {5, 6, 32}, {6, 7, 32}, {7, 8, 32}}));
  CHECK(sharedParts(Result({star(32, 512, 8), 1, 2})) == Parts({{0, 1, 8}, {0, 1, 8}, {0, 1, 8}, {0, 1, 8}}));
}

// Groups within groups, requests that end within a split, and requests that only look alike.
void testTree() {
  section("schedule of a tree of prefixes");
  const std::vector<Request> requests = {
      {3000, 1, {{1, 1024}, {2, 2048}}},
      {3000, 1, {{1, 1024}, {2, 2048}}},
      {3000, 1, {{1, 1024}, {3, 2560}}},
      {3000, 1, {{1, 1024}, {3, 2560}}},
      {1000, 1, {{1, 1024}}},
      {3000, 1, {{1, 16}}},
      {3000, 1, {{4, 1024}}},
      {1023, 1, {{1, 1024}}},
  };
  const Result result({requests, 8, 1});
  CHECK(sharedParts(result) == Parts({{0, 1, 6}, {1, 2, 5}, {2, 4, 2}, {2, 5, 2}}));
}

// Tables that are no tree of prefixes: who shares a split did not share the one before.
void testCrossed() {
  section("schedule of crossed tables");
  const std::vector<Request> requests = {{1100, 1, {{1, 512}, {3, 1024}}},
                                         {1100, 1, {{1, 512}, {4, 1024}}},
                                         {1100, 1, {{2, 512}, {3, 1024}}},
                                         {1100, 1, {{2, 512}, {4, 1024}}}};
  testCase({requests, 8, 1});
  CHECK(sharedParts(Result({requests, 8, 1})) == Parts({{0, 1, 2}, {0, 1, 2}, {1, 2, 2}, {1, 2, 2}}));
}

// A split is shared by tiles all tokens of which see all of it.
void testTokens() {
  section("shared splits of several tokens");
  const Request whole = {3000, 1, {{1, 2560}}};
  CHECK(sharedParts(Result({{whole, {1022, 5, {{1, 1024}}}}, 8, 1})) == Parts({{0, 1, 2}}));
  CHECK(sharedParts(Result({{whole, {1023, 5, {{1, 1024}}}}, 8, 1})) == Parts({{0, 2, 2}}));
  // Windows of 2000 tokens: the first token of the second request sees split 1 whole, its last one does not.
  CHECK(sharedParts(Result({{{2511, 1, {{1, 2048}}}, {2511, 3, {{1, 2048}}}}, 8, 1, 2000})) == Parts({{2, 4, 2}}));
  CHECK(sharedParts(Result({{{2511, 1, {{1, 2048}}}, {2509, 3, {{1, 2048}}}}, 8, 1, 2000})) == Parts({{1, 4, 2}}));
}

// Splits that a window cuts off, for one of the tiles, are not shared.
void testWindow() {
  section("shared prefixes and windows");
  std::vector<Request> requests = star(3, 4096, 100);  // the window begins in split 4
  requests.push_back({4096 + 700, 1, {{1, 4096}}});    // in split 5
  const Result result({requests, 8, 1, 2048});
  CHECK(sharedParts(result) == Parts({{5, 6, 3}, {6, 8, 4}}));
  CHECK(sharedParts(Result({star(3, 4096, 100), 8, 1, 600})).empty());
}

// Tiles with rows enough of their own are left alone, short chunks are not.
void testPrefill() {
  section("shared prefixes and prefill");
  const std::vector<Request> requests = {
      {2048, 100, {{1, 2048}}}, {2048, 100, {{1, 2048}}}, {2048, 1, {{1, 2048}}}, {2048, 5, {{1, 2048}}}};
  CHECK(sharedParts(Result({requests, 8, 1})) == Parts({{0, 4, 4}}));
}

// States never take more room than they may; who finds none computes alone.
void testRoom() {
  section("room for states");
  std::vector<Request> requests;
  for (int32_t r = 0; r < 600; ++r) requests.push_back({20480 + r, 1, {{1, 512}, {2 + r % 9, 20480}}});
  const Case c = {requests, 8, 2};
  testCase(c);
  CHECK(!sharedParts(Result(c)).empty());
}

}  // namespace
}  // namespace pagoda::test

int main() {
  using namespace pagoda::test;
  for (int32_t threads : {1, 2, 7, 64}) {
    for (int32_t window : {0, 1, 600, 2000}) {
      testCase({{{16383, 1}}, 1, threads, window});
      testCase({{{0, 1}, {5000, 1}, {511, 3}, {512, 0}, {1023, 1}}, 2, threads, window});
      testCase({{{0, 700}, {3000, 33}, {20000, 1}}, 8, threads, window});
      testCase({star(40, 3000, 900), 2, threads, window});
      testCase({{{3000, 7, {{1, 2500}}},
                 {9000, 1, {{1, 2500}, {2, 7000}}},
                 {7168, 1, {{1, 2500}, {2, 7168}}},
                 {2047, 90, {{1, 2047}}},
                 {7000, 16, {{2, 512}, {1, 1024}, {2, 7000}}}},
                8,
                threads,
                window});
    }
  }
  testOneLongRequest();
  testStatesOfLongContexts();
  testManyRequests();
  testOrder();
  testSharedPrefix();
  testBalance();
  testTree();
  testCrossed();
  testTokens();
  testWindow();
  testPrefill();
  testRoom();
  return finish();
}
