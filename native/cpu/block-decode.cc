#include <cstring>

#include "block-codec.h"
#include "half.h"

namespace pagoda {
namespace {

// Codes of 32 columns from 16 bytes: low nibbles, then high ones.
void decodeNibbles(const uint8_t* bytes, uint8_t* codes) {
  for (int i = 0; i < 16; ++i) {
    codes[i] = bytes[i] & 15;
    codes[i + 16] = bytes[i] >> 4;
  }
}

// Adds bit i of `high` as the fifth bit of code i.
void addFifthBits(const uint8_t (&high)[4], uint8_t* codes) {
  for (int byte = 0; byte < 4; ++byte) {
    for (int i = 0; i < 8; ++i) codes[8 * byte + i] |= static_cast<uint8_t>((high[byte] >> i & 1) << 4);
  }
}

void decode(const BlockQ8_0& block, BlockParts& parts) {
  parts.d = block.d;
  for (int i = 0; i < 32; ++i) parts.codes[i] = static_cast<uint8_t>(block.codes[i] + 128);
}

void decode(const BlockQ4_0& block, BlockParts& parts) {
  parts.d = block.d;
  decodeNibbles(block.codes, parts.codes);
}

void decode(const BlockQ4_1& block, BlockParts& parts) {
  parts.d = block.d;
  parts.m = block.m;
  decodeNibbles(block.codes, parts.codes);
}

void decode(const BlockQ5_0& block, BlockParts& parts) {
  parts.d = block.d;
  decodeNibbles(block.codes, parts.codes);
  addFifthBits(block.high, parts.codes);
}

void decode(const BlockQ5_1& block, BlockParts& parts) {
  parts.d = block.d;
  parts.m = block.m;
  decodeNibbles(block.codes, parts.codes);
  addFifthBits(block.high, parts.codes);
}

// The six-bit scales and minima of Q4_K and Q5_K.
void decodeScales(const uint8_t (&packed)[12], BlockParts& parts) {
  for (int g = 0; g < 4; ++g) {
    parts.scales[g] = packed[g] & 63;
    parts.mins[g] = packed[g + 4] & 63;
    parts.scales[g + 4] = static_cast<uint8_t>((packed[g + 8] & 15) | (packed[g] >> 6) << 4);
    parts.mins[g + 4] = static_cast<uint8_t>(packed[g + 8] >> 4 | (packed[g + 4] >> 6) << 4);
  }
}

void decodeNibbleGroups(const uint8_t (&bytes)[128], BlockParts& parts) {
  for (int pair = 0; pair < 4; ++pair) {
    uint8_t* codes = parts.codes + 64 * pair;
    for (int i = 0; i < 32; ++i) {
      codes[i] = bytes[32 * pair + i] & 15;
      codes[i + 32] = bytes[32 * pair + i] >> 4;
    }
  }
}

void decode(const BlockQ4_K& block, BlockParts& parts) {
  parts.d = block.d;
  parts.m = block.dmin ^ 0x8000;
  decodeScales(block.scales, parts);
  decodeNibbleGroups(block.codes, parts);
}

void decode(const BlockQ5_K& block, BlockParts& parts) {
  parts.d = block.d;
  parts.m = block.dmin ^ 0x8000;
  decodeScales(block.scales, parts);
  decodeNibbleGroups(block.codes, parts);
  for (int g = 0; g < 8; ++g) {
    for (int i = 0; i < 32; ++i) parts.codes[32 * g + i] |= static_cast<uint8_t>((block.high[i] >> g & 1) << 4);
  }
}

void decode(const BlockQ6_K& block, BlockParts& parts) {
  parts.d = block.d;
  std::memcpy(parts.scales, block.scales, 16);
  for (int g = 0; g < 8; ++g) {
    const int half = g / 4, t = g % 4;
    const uint8_t* low = block.low + 64 * half + 32 * (t % 2);
    const uint8_t* high = block.high + 32 * half;
    for (int i = 0; i < 32; ++i) {
      parts.codes[32 * g + i] = static_cast<uint8_t>((low[i] >> (t / 2 * 4) & 15) | (high[i] >> (2 * t) & 3) << 4);
    }
  }
}

void decode(const BlockMxfp4& block, BlockParts& parts) {
  parts.scales[0] = block.exponent;
  decodeNibbles(block.codes, parts.codes);
}

template <class Block>
void decodeAs(const void* bytes, BlockParts& parts) {
  Block block;
  std::memcpy(&block, bytes, sizeof block);
  decode(block, parts);
}

float scaleOf(PagodaDtype dtype, const BlockParts& parts, int column) {
  const float d = halfToFloat(parts.d);
  switch (dtype) {
    case PAGODA_Q4_K:
    case PAGODA_Q5_K:
      return d * parts.scales[column / 32];
    case PAGODA_Q6_K:
      return d * static_cast<int8_t>(parts.scales[column / 16]);
    case PAGODA_MXFP4:
      return halvedPower(parts.scales[0]);
    default:
      return d;
  }
}

float minOf(PagodaDtype dtype, const BlockParts& parts, int column) {
  switch (dtype) {
    case PAGODA_Q4_1:
    case PAGODA_Q5_1:
      return halfToFloat(parts.m);
    case PAGODA_Q4_K:
    case PAGODA_Q5_K:
      return halfToFloat(parts.m) * parts.mins[column / 32];
    default:
      return 0;
  }
}

}  // namespace

int32_t codeOffset(PagodaDtype dtype) {
  switch (dtype) {
    case PAGODA_Q8_0:
      return 128;
    case PAGODA_Q4_0:
      return 8;
    case PAGODA_Q5_0:
      return 16;
    case PAGODA_Q6_K:
      return 32;
    default:
      return 0;
  }
}

void decodeBlock(PagodaDtype dtype, const void* block, BlockParts& parts) {
  switch (dtype) {
    case PAGODA_Q8_0:
      return decodeAs<BlockQ8_0>(block, parts);
    case PAGODA_Q4_0:
      return decodeAs<BlockQ4_0>(block, parts);
    case PAGODA_Q4_1:
      return decodeAs<BlockQ4_1>(block, parts);
    case PAGODA_Q5_0:
      return decodeAs<BlockQ5_0>(block, parts);
    case PAGODA_Q5_1:
      return decodeAs<BlockQ5_1>(block, parts);
    case PAGODA_Q4_K:
      return decodeAs<BlockQ4_K>(block, parts);
    case PAGODA_Q5_K:
      return decodeAs<BlockQ5_K>(block, parts);
    case PAGODA_Q6_K:
      return decodeAs<BlockQ6_K>(block, parts);
    case PAGODA_MXFP4:
      return decodeAs<BlockMxfp4>(block, parts);
    case PAGODA_F32:
    case PAGODA_BF16:
    case PAGODA_F16:
    case PAGODA_INT8:
      return;
  }
}

void dequantizeBlock(PagodaDtype dtype, const void* block, float* values) {
  BlockParts parts;
  decodeBlock(dtype, block, parts);
  const int32_t offset = codeOffset(dtype);
  const auto numberOf = [&](uint8_t code) { return dtype == PAGODA_MXFP4 ? kDoubledFp4[code] : code - offset; };
  for (int i = 0; i < blockFormat(dtype).columns; ++i) {
    values[i] = scaleOf(dtype, parts, i) * static_cast<float>(numberOf(parts.codes[i])) + minOf(dtype, parts, i);
  }
}

}  // namespace pagoda
