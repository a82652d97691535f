#include "kv-transfer.h"

#include "check-arrays.h"

namespace pagoda {

namespace {

/// Returns the bytes of the transfer.
uint64_t checkBlocks(const Runner& runner, const std::vector<int32_t>& blocks, int32_t lowest) {
  const uint64_t blockBytes = kvBlockBytes(runner);
  require(blocks.size() <= 1 || blockBytes == 0 || blocks.size() <= kMaxTransferBytes / blockBytes,
          "blocks: too many for one transfer");
  checkRange<int32_t>("blocks", blocks, lowest, runner.kvOptions().numBlocks - 1);
  return blocks.size() * blockBytes;
}

/// Calls `move(address, offset, bytes)` for each part of the blocks that lies together in device memory.
template <typename Move>
void visitParts(const Runner& runner, const std::vector<int32_t>& blocks, Move&& move) {
  uint64_t offset = 0;
  for (const int32_t block : blocks) {
    for (const DeviceMemory& memory : runner.kvMemory()) {
      const uint64_t bytes = memory.bytes() / runner.kvOptions().numBlocks;
      move(memory.at(block * bytes), offset, bytes);
      offset += bytes;
    }
  }
}

}  // namespace

uint64_t kvBlockBytes(const Runner& runner) {
  uint64_t bytes = 0;
  for (const DeviceMemory& memory : runner.kvMemory()) bytes += memory.bytes() / runner.kvOptions().numBlocks;
  return bytes;
}

std::vector<uint8_t> readBlocks(Runner& runner, const std::vector<int32_t>& blocks) {
  std::vector<uint8_t> bytes(checkBlocks(runner, blocks, 0));
  Device& device = runner.device();
  visitParts(runner, blocks, [&](const void* address, uint64_t offset, uint64_t length) {
    device.copyToHost(bytes.data() + offset, address, length);
  });
  device.synchronize();
  return bytes;
}

void writeBlocks(Runner& runner, const std::vector<int32_t>& blocks, const std::vector<uint8_t>& bytes) {
  checkLength("bytes", bytes.size(), checkBlocks(runner, blocks, 1));
  Device& device = runner.device();
  visitParts(runner, blocks, [&](void* address, uint64_t offset, uint64_t length) {
    device.copyToDevice(address, bytes.data() + offset, length);
  });
}

}  // namespace pagoda
