// Blocks of the KV cache to the host and back: what it takes to store a session and to go on with it elsewhere.
#pragma once

#include <cstdint>
#include <vector>

#include "runner.h"

namespace pagoda {

/// What one call may move, so that steps never wait long for the engine thread. One block always may.
/// lib/engine/kv-transfer.ts has the same figure.
constexpr uint64_t kMaxTransferBytes = uint64_t{4} << 20;

/// Bytes of one physical block over all KV memories.
uint64_t kvBlockBytes(const Runner& runner);

/// Bytes of these physical blocks: block after block, in each the KV memories in order, in the backend's own layout.
/// Slots that no token was written to hold whatever was there. Throws PAGODA_INVALID unless every id is a block.
std::vector<uint8_t> readBlocks(Runner& runner, const std::vector<int32_t>& blocks);

/// The reverse. Throws PAGODA_INVALID, with nothing written, unless every id is a block other than the null block and
/// the length is exact.
void writeBlocks(Runner& runner, const std::vector<int32_t>& blocks, const std::vector<uint8_t>& bytes);

}  // namespace pagoda
