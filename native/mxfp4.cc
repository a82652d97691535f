#include "mxfp4.h"

#include <cstring>

#include "block-formats.h"
#include "failure.h"

namespace pagoda {

namespace {

constexpr uint64_t kMaxRow = uint64_t{1} << 40;
constexpr uint64_t kMaxStep = 1u << 10;

/// Code i of the file, of 32.
uint8_t codeAt(const uint8_t* pairs, int32_t i) { return pairs[i / 2] >> (i % 2 * 4) & 15; }

BlockMxfp4 blockOf(uint8_t exponent, const uint8_t* pairs) {
  BlockMxfp4 block = {.exponent = exponent, .codes = {}};
  for (int32_t i = 0; i < 16; ++i) block.codes[i] = static_cast<uint8_t>(codeAt(pairs, i) | codeAt(pairs, i + 16) << 4);
  return block;
}

}  // namespace

SplitMxfp4Rows::SplitMxfp4Rows(const SplitMxfp4& source, const std::string& file, uint64_t offset, int32_t cols)
    : source_(source), offset_(offset), blocks_(cols / 32), codesFile_(file), scalesFile_(source.scaleFile) {
  require(cols % 32 == 0, "Rows of MXFP4 are whole blocks");
  require(source.firstRow <= kMaxRow && source.rowStep >= 1 && source.rowStep <= kMaxStep,
          "The rows of a tensor are out of range");
}

void SplitMxfp4Rows::read(int32_t row, int32_t rows, char* into) {
  constexpr uint64_t kCodeBytes = sizeof(BlockMxfp4::codes);
  const uint64_t first = source_.firstRow + row * source_.rowStep;
  const uint64_t span = (rows - 1) * source_.rowStep + 1;
  codes_.resize(span * blocks_ * kCodeBytes);
  scales_.resize(span * blocks_);
  codesFile_.read(offset_ + first * blocks_ * kCodeBytes, codes_.data(), codes_.size());
  scalesFile_.read(source_.scaleOffset + first * blocks_, scales_.data(), scales_.size());
  for (int32_t r = 0; r < rows; ++r) {
    for (uint64_t b = 0; b < blocks_; ++b, into += sizeof(BlockMxfp4)) {
      const uint64_t at = r * source_.rowStep * blocks_ + b;
      const BlockMxfp4 block = blockOf(scales_[at], &codes_[at * kCodeBytes]);
      std::memcpy(into, &block, sizeof block);
    }
  }
}

}  // namespace pagoda
