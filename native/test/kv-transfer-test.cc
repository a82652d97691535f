// Blocks of the KV cache to the host and back, over layers of different sizes; every bad id and length is refused.
#include "../kv-transfer.h"

#include <algorithm>
#include <functional>

#include "../cpu/backend.h"
#include "check.h"

namespace pagoda::test {
namespace {

constexpr KvOptions kKv{6, 4, PAGODA_BF16};
// K and V of blockSize tokens, 2 bytes an element, in layers of 2 heads of 8 and 1 head of 4 elements.
constexpr uint64_t kFirstLayer = 2 * 4 * 2 * (2 * 8), kSecondLayer = 2 * 4 * 2 * (1 * 4);
constexpr uint64_t kBlock = kFirstLayer + kSecondLayer;

/// A plan without steps: it has a KV cache, and logits that nothing writes.
PlanSpec cachePlan() {
  PlanSpec plan;
  plan.kvLayers = {{2, 8, 0, 0}, {1, 4, 0, 1}};
  plan.kvGroups = {{0}};
  plan.arenaBytes = 64;
  plan.maxTokens = plan.maxOutputs = 1;
  plan.vocabSize = 4;
  plan.logits = {0, Rows::outputs, 4, 4};
  return plan;
}

/// Bytes that differ from block to block and inside of it.
std::vector<uint8_t> pattern(size_t blocks, uint8_t first) {
  std::vector<uint8_t> bytes(blocks * kBlock);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(first + 7 * i + i / kBlock);
  return bytes;
}

std::vector<uint8_t> blockOf(const std::vector<uint8_t>& bytes, size_t index) {
  return {bytes.begin() + static_cast<int64_t>(index * kBlock),
          bytes.begin() + static_cast<int64_t>((index + 1) * kBlock)};
}

bool refused(const std::function<void()>& call) {
  try {
    call();
  } catch (const Failure& failure) {
    return failure.status() == PAGODA_INVALID && failure.what()[0] != '\0';
  }
  return false;
}

void testRoundTrip(Runner& runner) {
  section("blocks come back as they were written, in any order, and their neighbours keep their bytes");
  CHECK(kvBlockBytes(runner) == kBlock, "%llu bytes", static_cast<unsigned long long>(kvBlockBytes(runner)));
  const std::vector<uint8_t> all = pattern(5, 1), two = pattern(2, 100);
  writeBlocks(runner, {1, 2, 3, 4, 5}, all);
  writeBlocks(runner, {4, 2}, two);
  const std::vector<uint8_t> read = readBlocks(runner, {5, 4, 3, 2, 1, 4});
  CHECK(read.size() == 6 * kBlock);
  CHECK(blockOf(read, 0) == blockOf(all, 4) && blockOf(read, 2) == blockOf(all, 2) &&
        blockOf(read, 4) == blockOf(all, 0));
  CHECK(blockOf(read, 1) == blockOf(two, 0) && blockOf(read, 3) == blockOf(two, 1) &&
        blockOf(read, 5) == blockOf(two, 0));
}

void testLayers(Runner& runner) {
  section("a block is its layers, one after the other");
  const std::vector<uint8_t> bytes = pattern(1, 9);
  writeBlocks(runner, {3}, bytes);
  uint64_t offset = 0;
  for (const uint64_t layerBytes : {kFirstLayer, kSecondLayer}) {
    const DeviceMemory& memory = runner.kvMemory()[offset == 0 ? 0 : 1];
    const auto* block = static_cast<const uint8_t*>(memory.at(3 * layerBytes));
    CHECK(std::equal(block, block + layerBytes, bytes.begin() + static_cast<int64_t>(offset)));
    offset += layerBytes;
  }
}

void testRefused(Runner& runner) {
  section("bad ids and lengths are refused, and nothing is written");
  const std::vector<uint8_t> before = readBlocks(runner, {0, 1, 2, 3, 4, 5});
  const std::vector<uint8_t> one = pattern(1, 77), two = pattern(2, 77);
  for (const int32_t bad : {-1, 6, INT32_MIN, INT32_MAX}) {
    CHECK(refused([&] { readBlocks(runner, {1, bad}); }), "read %d", bad);
    CHECK(refused([&] { writeBlocks(runner, {1, bad}, two); }), "write %d", bad);
  }
  CHECK(refused([&] { writeBlocks(runner, {1, 0}, two); }), "the null block");
  CHECK(refused([&] { writeBlocks(runner, {1, 2}, one); }), "too short");
  CHECK(refused([&] { writeBlocks(runner, {1}, two); }), "too long");
  CHECK(refused([&] { writeBlocks(runner, {1}, {}); }), "empty");
  CHECK(refused([&] { writeBlocks(runner, {}, one); }), "no blocks");
  const std::vector<int32_t> many(kMaxTransferBytes / kBlock + 1, 1);
  CHECK(refused([&] { readBlocks(runner, many); }), "too many");
  CHECK(readBlocks(runner, {0, 1, 2, 3, 4, 5}) == before);
  CHECK(readBlocks(runner, {}).empty());
  writeBlocks(runner, {}, {});
}

void testWithoutCache(Device& device) {
  section("a plan without attention has blocks of no bytes");
  PlanSpec plan = cachePlan();
  plan.kvLayers.clear();
  Runner runner(device, plan, kKv, 1);
  CHECK(kvBlockBytes(runner) == 0);
  CHECK(readBlocks(runner, {1, 2, 3}).empty());
  writeBlocks(runner, {1, 2, 3}, {});
}

void run() {
  Device device(pagodaCpuBackend(), {0, 1, nullptr});
  Runner runner(device, cachePlan(), kKv, 1);
  runner.poison();
  testRoundTrip(runner);
  testLayers(runner);
  testRefused(runner);
  testWithoutCache(device);
}

}  // namespace
}  // namespace pagoda::test

int main() {
  pagoda::test::run();
  return pagoda::test::finish();
}
