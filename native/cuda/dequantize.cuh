// Columns of a weight's row as f32, a group at a time; see weights.h and ../block-formats.h. A group is what one thread
// reads: 8 plain elements, or the 32 columns that share the factors of a quantised type.
#pragma once

#include "kernel.cuh"
#include "weights.h"

namespace pagoda::cuda {

template <PagodaDtype>
struct Codec;

template <>
struct Codec<PAGODA_F32> {
  static constexpr int kColumns = 8;
  static __device__ __forceinline__ void load(const uint8_t* row, int64_t group, float (&values)[kColumns]) {
    const auto* from = reinterpret_cast<const float4*>(row) + 2 * group;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float4 x = from[i];
      values[4 * i] = x.x, values[4 * i + 1] = x.y, values[4 * i + 2] = x.z, values[4 * i + 3] = x.w;
    }
  }
};

/// Eight elements of 16 bits.
template <typename ToFloat>
__device__ __forceinline__ void loadHalves(const uint8_t* row, int64_t group, float (&values)[8], ToFloat toFloat) {
  const uint4 words = reinterpret_cast<const uint4*>(row)[group];
  const uint32_t word[4] = {words.x, words.y, words.z, words.w};
  for (int i = 0; i < 4; ++i) {
    values[2 * i] = toFloat(static_cast<uint16_t>(word[i]));
    values[2 * i + 1] = toFloat(static_cast<uint16_t>(word[i] >> 16));
  }
}

__device__ __forceinline__ float fromBf16(uint16_t bits) { return __uint_as_float(static_cast<uint32_t>(bits) << 16); }

template <>
struct Codec<PAGODA_BF16> {
  static constexpr int kColumns = 8;
  static __device__ __forceinline__ void load(const uint8_t* row, int64_t group, float (&values)[kColumns]) {
    loadHalves(row, group, values, [](uint16_t bits) { return fromBf16(bits); });
  }
};

template <>
struct Codec<PAGODA_F16> {
  static constexpr int kColumns = 8;
  static __device__ __forceinline__ void load(const uint8_t* row, int64_t group, float (&values)[kColumns]) {
    loadHalves(row, group, values, [](uint16_t bits) { return fromHalf(bits); });
  }
};

/// Code i of 32 in 16 bytes: the low nibbles, then the high ones.
__device__ __forceinline__ int nibble(const uint8_t* codes, int i) {
  return i < 16 ? codes[i] & 15 : codes[i - 16] >> 4;
}

__device__ __forceinline__ int bitOf(const uint8_t* bits, int i) { return bits[i / 8] >> (i % 8) & 1; }

template <>
struct Codec<PAGODA_Q8_0> {
  static constexpr int kColumns = 32;
  static __device__ __forceinline__ void load(const uint8_t* row, int64_t group, float (&values)[kColumns]) {
    const auto& block = reinterpret_cast<const BlockQ8_0*>(row)[group];
    const float d = fromHalf(block.d);
#pragma unroll
    for (int i = 0; i < kColumns; ++i) values[i] = d * block.codes[i];
  }
};

template <>
struct Codec<PAGODA_Q4_0> {
  static constexpr int kColumns = 32;
  static __device__ __forceinline__ void load(const uint8_t* row, int64_t group, float (&values)[kColumns]) {
    const auto& block = reinterpret_cast<const BlockQ4_0*>(row)[group];
    const float d = fromHalf(block.d);
#pragma unroll
    for (int i = 0; i < kColumns; ++i) values[i] = d * (nibble(block.codes, i) - 8);
  }
};

template <>
struct Codec<PAGODA_Q4_1> {
  static constexpr int kColumns = 32;
  static __device__ __forceinline__ void load(const uint8_t* row, int64_t group, float (&values)[kColumns]) {
    const auto& block = reinterpret_cast<const BlockQ4_1*>(row)[group];
    const float d = fromHalf(block.d), m = fromHalf(block.m);
#pragma unroll
    for (int i = 0; i < kColumns; ++i) values[i] = fmaf(d, nibble(block.codes, i), m);
  }
};

template <>
struct Codec<PAGODA_Q5_0> {
  static constexpr int kColumns = 32;
  static __device__ __forceinline__ void load(const uint8_t* row, int64_t group, float (&values)[kColumns]) {
    const auto& block = reinterpret_cast<const BlockQ5_0*>(row)[group];
    const float d = fromHalf(block.d);
#pragma unroll
    for (int i = 0; i < kColumns; ++i) values[i] = d * (nibble(block.codes, i) + 16 * bitOf(block.high, i) - 16);
  }
};

template <>
struct Codec<PAGODA_Q5_1> {
  static constexpr int kColumns = 32;
  static __device__ __forceinline__ void load(const uint8_t* row, int64_t group, float (&values)[kColumns]) {
    const auto& block = reinterpret_cast<const BlockQ5_1*>(row)[group];
    const float d = fromHalf(block.d), m = fromHalf(block.m);
#pragma unroll
    for (int i = 0; i < kColumns; ++i) values[i] = fmaf(d, nibble(block.codes, i) + 16 * bitOf(block.high, i), m);
  }
};

/// The six-bit scale and minimum of a group of Q4_K and Q5_K.
struct SixBitFactors {
  int scale, min;
};

__device__ __forceinline__ SixBitFactors sixBitFactors(const uint8_t (&packed)[12], int g) {
  if (g < 4) return {packed[g] & 63, packed[g + 4] & 63};
  return {(packed[g + 4] & 15) | packed[g - 4] >> 6 << 4, packed[g + 4] >> 4 | packed[g] >> 6 << 4};
}

/// Code i of group g: two groups share 32 bytes, the first one in the low nibbles.
__device__ __forceinline__ int nibbleOfPair(const uint8_t* codes, int g, int i) {
  return codes[32 * (g / 2) + i] >> (4 * (g % 2)) & 15;
}

template <>
struct Codec<PAGODA_Q4_K> {
  static constexpr int kColumns = 32;
  static __device__ __forceinline__ void load(const uint8_t* row, int64_t group, float (&values)[kColumns]) {
    const auto& block = reinterpret_cast<const BlockQ4_K*>(row)[group / 8];
    const int g = static_cast<int>(group % 8);
    const SixBitFactors factors = sixBitFactors(block.scales, g);
    const float scale = fromHalf(block.d) * factors.scale, min = fromHalf(block.dmin) * factors.min;
#pragma unroll
    for (int i = 0; i < kColumns; ++i) values[i] = fmaf(scale, nibbleOfPair(block.codes, g, i), -min);
  }
};

template <>
struct Codec<PAGODA_Q5_K> {
  static constexpr int kColumns = 32;
  static __device__ __forceinline__ void load(const uint8_t* row, int64_t group, float (&values)[kColumns]) {
    const auto& block = reinterpret_cast<const BlockQ5_K*>(row)[group / 8];
    const int g = static_cast<int>(group % 8);
    const SixBitFactors factors = sixBitFactors(block.scales, g);
    const float scale = fromHalf(block.d) * factors.scale, min = fromHalf(block.dmin) * factors.min;
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      const int code = nibbleOfPair(block.codes, g, i) | (block.high[i] >> g & 1) << 4;
      values[i] = fmaf(scale, code, -min);
    }
  }
};

template <>
struct Codec<PAGODA_Q6_K> {
  static constexpr int kColumns = 32;
  static __device__ __forceinline__ void load(const uint8_t* row, int64_t group, float (&values)[kColumns]) {
    const auto& block = reinterpret_cast<const BlockQ6_K*>(row)[group / 8];
    const int g = static_cast<int>(group % 8), half = g / 4, quarter = g % 4;
    const uint8_t* low = block.low + 64 * half + 32 * (quarter % 2);
    const uint8_t* high = block.high + 32 * half;
    const float d = fromHalf(block.d);
    const float scales[2] = {d * block.scales[2 * g], d * block.scales[2 * g + 1]};
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      const int code = (low[i] >> (quarter / 2 * 4) & 15) | (high[i] >> (2 * quarter) & 3) << 4;
      values[i] = scales[i / 16] * (code - 32);
    }
  }
};

/// 2^(exponent - 128), half the scale of a block of MXFP4; exponent 255 is NaN.
__device__ __forceinline__ float halvedPower(uint32_t exponent) {
  if (exponent == 255) return __uint_as_float(0x7fc00000u);
  return __uint_as_float(exponent >= 2 ? (exponent - 1) << 23 : 0x00200000u << exponent);
}

/// Twice the number that a code of MXFP4 stands for: one sign, two exponent and one fraction bit.
__device__ __forceinline__ int doubledFp4(int code) {
  const int exponent = code >> 1 & 3, fraction = code & 1;
  const int size = exponent == 0 ? fraction : (2 + fraction) << (exponent - 1);
  return (code & 8) != 0 ? -size : size;
}

template <>
struct Codec<PAGODA_MXFP4> {
  static constexpr int kColumns = 32;
  static __device__ __forceinline__ void load(const uint8_t* row, int64_t group, float (&values)[kColumns]) {
    const auto& block = reinterpret_cast<const BlockMxfp4*>(row)[group];
    const float scale = halvedPower(block.exponent);
#pragma unroll
    for (int i = 0; i < kColumns; ++i) values[i] = scale * static_cast<float>(doubledFp4(nibble(block.codes, i)));
  }
};

/// Calls visit(Codec<dtype>) for a dtype that weights may have.
template <typename Visit>
auto withCodec(PagodaDtype dtype, Visit visit) {
  switch (dtype) {
    case PAGODA_BF16:
      return visit(Codec<PAGODA_BF16>());
    case PAGODA_F16:
      return visit(Codec<PAGODA_F16>());
    case PAGODA_Q8_0:
      return visit(Codec<PAGODA_Q8_0>());
    case PAGODA_Q4_0:
      return visit(Codec<PAGODA_Q4_0>());
    case PAGODA_Q4_1:
      return visit(Codec<PAGODA_Q4_1>());
    case PAGODA_Q5_0:
      return visit(Codec<PAGODA_Q5_0>());
    case PAGODA_Q5_1:
      return visit(Codec<PAGODA_Q5_1>());
    case PAGODA_Q4_K:
      return visit(Codec<PAGODA_Q4_K>());
    case PAGODA_Q5_K:
      return visit(Codec<PAGODA_Q5_K>());
    case PAGODA_Q6_K:
      return visit(Codec<PAGODA_Q6_K>());
    case PAGODA_MXFP4:
      return visit(Codec<PAGODA_MXFP4>());
    default:
      return visit(Codec<PAGODA_F32>());
  }
}

}  // namespace pagoda::cuda
