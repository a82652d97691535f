// Attention of requests that share blocks: the same bits as with copies of these blocks, and as alone.
#include "attention-fixture.h"

namespace pagoda::test {
namespace {

// A request as it stands in a tree of prefixes: its first tokens are those of `parent`.
struct Branch {
  int32_t parent;  // -1: none
  int32_t shared;  // tokens
  int32_t tokens;  // of context and this step
  int32_t fresh;   // of this step
};

// A branch whose K and V begin as its parent's; its queries are its own.
Sequence branchOf(const Shape& shape, const Sequence& parent, const Branch& branch, uint64_t seed) {
  Sequence sequence = randomSequence(shape, branch.tokens, seed);
  const int64_t shared = static_cast<int64_t>(branch.shared) * shape.numKvHeads * shape.headDim;
  std::copy_n(parent.k.begin(), shared, sequence.k.begin());
  std::copy_n(parent.v.begin(), shared, sequence.v.begin());
  return sequence;
}

class Family {
 public:
  Family(Device& device, const Shape& shape, int32_t blockSize, const std::vector<Branch>& branches)
      : device_(device), shape_(shape), cache_(device, shape, blockSize, blocksOf(blockSize, branches)) {
    sequences_.reserve(branches.size());
    for (const Branch& branch : branches) {
      const size_t i = sequences_.size();
      sequences_.push_back(branch.parent < 0 ? randomSequence(shape, branch.tokens, i)
                                             : branchOf(shape, sequences_[branch.parent], branch, i));
      chunks_.push_back({&sequences_[i], branch.tokens - branch.fresh, branch.fresh});
      own_.push_back(cache_.take(branch.tokens));
      writeCache(device, shape, cache_, {&sequences_[i], 0, branch.tokens}, own_[i]);
      shared_.push_back(own_[i]);
      if (branch.parent < 0) continue;
      const std::vector<int32_t>& from = shared_[branch.parent];
      std::copy_n(from.begin(), branch.shared / blockSize, shared_[i].begin());
    }
  }

  std::vector<float> withSharedBlocks() { return attend(device_, shape_, cache_, chunks_, shared_); }
  std::vector<float> withCopies() { return attend(device_, shape_, cache_, chunks_, own_); }
  std::vector<float> oneByOne() {
    std::vector<float> all;
    for (size_t i = 0; i < chunks_.size(); ++i) {
      const std::vector<float> out = attend(device_, shape_, cache_, {chunks_[i]}, {shared_[i]});
      all.insert(all.end(), out.begin(), out.end());
    }
    return all;
  }

 private:
  static int32_t blocksOf(int32_t blockSize, const std::vector<Branch>& branches) {
    int32_t blocks = 0;
    for (const Branch& branch : branches) blocks += branch.tokens / blockSize + 1;
    return blocks;
  }

  Device& device_;
  Shape shape_;
  Cache cache_;
  std::vector<Sequence> sequences_;
  std::vector<Chunk> chunks_;
  std::vector<std::vector<int32_t>> own_;
  std::vector<std::vector<int32_t>> shared_;
};

void testFamily(const std::string& isa, const Shape& shape, int32_t blockSize, const std::vector<Branch>& branches) {
  section(describe(isa, shape) + text(" cascade, %zu requests, blocks of %d", branches.size(), blockSize));
  std::vector<float> first;
  for (int32_t threads : {1, 2, 7}) {
    Device device(isa.c_str(), threads);
    Family family(device, shape, blockSize, branches);
    const std::vector<float> shared = family.withSharedBlocks(), copies = family.withCopies();
    CHECK(sameBits(shared.data(), copies.data(), copies.size()), "%d threads: copies", threads);
    const std::vector<float> alone = family.oneByOne();
    CHECK(alone.size() == shared.size() && sameBits(shared.data(), alone.data(), alone.size()), "%d threads: alone",
          threads);
    if (first.empty()) first = shared;
    CHECK(sameBits(shared.data(), first.data(), first.size()), "%d threads: 1 thread", threads);
    for (float value : shared) CHECK(std::isfinite(value), "%g", static_cast<double>(value));
  }
}

// Requests that decode, or compute `fresh` tokens, over one prefix.
std::vector<Branch> star(int32_t requests, int32_t prefix, int32_t own, int32_t fresh) {
  std::vector<Branch> branches = {{-1, 0, prefix + own, fresh}};
  for (int32_t r = 1; r < requests; ++r) branches.push_back({0, prefix, prefix + own + 7 * r, fresh});
  return branches;
}

// Four share one split, of these two and two another one, and some end within it; beside them a long prefill, a chunk
// over the same prefix, and a request that shares nothing.
const std::vector<Branch> kTree = {{-1, 0, 1700, 1},   {0, 1600, 1650, 1}, {0, 600, 1200, 2}, {2, 1100, 1101, 1},
                                   {0, 1600, 1900, 9}, {0, 512, 512, 1},   {0, 512, 513, 1},  {2, 1024, 1250, 200},
                                   {-1, 0, 700, 1},    {0, 1024, 1024, 1}};

// Behind a window of 788 tokens the first one begins with a split, the others before.
std::vector<Branch> atWindow() {
  std::vector<Branch> branches = {{-1, 0, 1300, 1}};
  for (int32_t r = 1; r < 20; ++r) branches.push_back({0, 1100, 1200 - r, 1});
  return branches;
}

void testIsa(const std::string& isa) {
  for (PagodaDtype dtype : {PAGODA_F32, PAGODA_BF16, PAGODA_INT8}) {
    testFamily(isa, {4, 2, 16, dtype}, 16, kTree);
    testFamily(isa, {4, 1, 20, dtype, 0, 20.0f}, 16, star(9, 1100, 30, 1));
    testFamily(isa, {3, 3, 17, dtype}, 3, star(5, 1030, 1, 3));
    for (int32_t window : {1, 513, 600, 1100}) testFamily(isa, {4, 2, 8, dtype, window}, 16, kTree);
  }
  testFamily(isa, {4, 2, 8, PAGODA_F32, 788}, 16, atWindow());
  testFamily(isa, {4, 2, 8, PAGODA_F32, 600}, 16, {{-1, 0, 1111, 1}, {0, 1024, 1113, 4}});
  testFamily(isa, {4, 2, 8}, 16, {{-1, 0, 1200, 1}, {0, 1024, 1026, 4}});
  testFamily(isa, {2, 1, 8}, 1, kTree);
  testFamily(isa, {2, 1, 8}, 512, kTree);
  testFamily(isa, {2, 1, 8}, 1024, star(6, 2100, 600, 1));
  testFamily(isa, {8, 1, 8}, 16, star(40, 560, 0, 1));    // more rows than a part may have
  testFamily(isa, {8, 1, 8}, 16, star(7, 560, 10, 6));    // several tokens each
  testFamily(isa, {70, 1, 8}, 16, star(3, 560, 10, 1));   // a group of heads that fills a part
  testFamily(isa, {2, 1, 8}, 16, star(3, 520, 2600, 1));  // what each has of its own is cut
}

// A request whose last keys are not finite does not reach those that share the keys before.
void testPoison(const std::string& isa, PagodaDtype dtype) {
  section(text("%s cascade, not finite, dtype %d", isa.c_str(), dtype));
  const Shape shape = {4, 2, 16, dtype};
  Device device(isa.c_str(), 2);
  Cache cache(device, shape, 16, 200);
  const int32_t prefix = 512, tokens = 530;
  std::vector<Sequence> sequences = {randomSequence(shape, tokens, 1)};
  sequences.push_back(branchOf(shape, sequences[0], {0, prefix, tokens, 1}, 2));
  std::vector<std::vector<int32_t>> blocks = {cache.take(tokens), cache.take(tokens)};
  for (int i = 0; i < 2; ++i) writeCache(device, shape, cache, {&sequences[i], 0, tokens}, blocks[i]);
  std::copy_n(blocks[0].begin(), prefix / 16, blocks[1].begin());
  const std::vector<Chunk> chunks = {{&sequences[0], tokens - 1, 1}, {&sequences[1], tokens - 1, 1}};
  const std::vector<float> clean = attend(device, shape, cache, chunks, blocks);
  std::fill(sequences[0].v.end() - 32, sequences[0].v.end(), kNaN);
  writeCache(device, shape, cache, {&sequences[0], 0, tokens}, blocks[0]);
  const std::vector<float> poisoned = attend(device, shape, cache, chunks, blocks);
  CHECK(std::isnan(poisoned[0]) && sameBits(clean.data() + 64, poisoned.data() + 64, 64));
}

}  // namespace
}  // namespace pagoda::test

int main() {
  using namespace pagoda::test;
  for (const std::string& isa : isas()) {
    testIsa(isa);
    for (PagodaDtype dtype : {PAGODA_F32, PAGODA_BF16, PAGODA_INT8}) testPoison(isa, dtype);
  }
  return finish();
}
