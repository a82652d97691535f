// Columns of a weight's row as f32, eight at a time; see weights.h and ../block-formats.h.
#pragma once

#include <type_traits>

#include "kernel.cuh"
#include "weights.h"

namespace pagoda::cuda {

constexpr int kCodecColumns = 8;

/// load(row, group, values): columns 8 * group to 8 * group + 7.
template <PagodaDtype kDtype>
struct Codec;

template <>
struct Codec<PAGODA_F32> {
  static __device__ __forceinline__ void load(const uint8_t* row, int64_t group, float (&values)[kCodecColumns]) {
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
__device__ __forceinline__ void loadHalves(const uint8_t* row, int64_t group, float (&values)[kCodecColumns],
                                           ToFloat toFloat) {
  const uint4 words = reinterpret_cast<const uint4*>(row)[group];
  const uint32_t word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    values[2 * i] = toFloat(static_cast<uint16_t>(word[i]));
    values[2 * i + 1] = toFloat(static_cast<uint16_t>(word[i] >> 16));
  }
}

__device__ __forceinline__ float fromBf16(uint16_t bits) { return __uint_as_float(static_cast<uint32_t>(bits) << 16); }

template <>
struct Codec<PAGODA_BF16> {
  static __device__ __forceinline__ void load(const uint8_t* row, int64_t group, float (&values)[kCodecColumns]) {
    loadHalves(row, group, values, [](uint16_t bits) { return fromBf16(bits); });
  }
};

template <>
struct Codec<PAGODA_F16> {
  static __device__ __forceinline__ void load(const uint8_t* row, int64_t group, float (&values)[kCodecColumns]) {
    loadHalves(row, group, values, [](uint16_t bits) { return fromHalf(bits); });
  }
};

/// Four bytes from an address that is a multiple of two, as all in blocks of an even size are.
__device__ __forceinline__ uint32_t loadBytes4(const void* address) {
  const auto* halves = static_cast<const uint16_t*>(address);
  return halves[0] | static_cast<uint32_t>(halves[1]) << 16;
}

/// Four bytes from any address.
__device__ __forceinline__ uint32_t loadUnaligned4(const uint8_t* bytes) {
  return bytes[0] | bytes[1] << 8 | bytes[2] << 16 | static_cast<uint32_t>(bytes[3]) << 24;
}

/// Calls set(i, code) for eight codes of four bits: the low or, `shift` being 4, the high nibbles of eight bytes.
template <typename Set>
__device__ __forceinline__ void forNibbles(const uint32_t (&bytes)[2], int shift, Set set) {
#pragma unroll
  for (int i = 0; i < kCodecColumns; ++i) set(i, static_cast<int>(bytes[i / 4] >> (8 * (i % 4) + shift) & 15));
}

/// Eight codes of 32 whose low nibbles are those of the first 16: `part` counts them in eights.
template <typename Set>
__device__ __forceinline__ void forCodesOf32(const uint8_t* codes, int part, Set set) {
  const uint8_t* from = codes + part % 2 * 8;
  const uint32_t bytes[2] = {loadBytes4(from), loadBytes4(from + 4)};
  forNibbles(bytes, part / 2 * 4, set);
}

template <>
struct Codec<PAGODA_Q8_0> {
  static __device__ __forceinline__ void load(const uint8_t* row, int64_t group, float (&values)[kCodecColumns]) {
    const auto& block = reinterpret_cast<const BlockQ8_0*>(row)[group / 4];
    const int8_t* codes = block.codes + group % 4 * kCodecColumns;
    const float d = fromHalf(block.d);
#pragma unroll
    for (int i = 0; i < kCodecColumns; i += 4) {
      const uint32_t bytes = loadBytes4(codes + i);
#pragma unroll
      for (int j = 0; j < 4; ++j) values[i + j] = d * static_cast<int8_t>(bytes >> 8 * j);
    }
  }
};

template <>
struct Codec<PAGODA_Q4_0> {
  static __device__ __forceinline__ void load(const uint8_t* row, int64_t group, float (&values)[kCodecColumns]) {
    const auto& block = reinterpret_cast<const BlockQ4_0*>(row)[group / 4];
    const float d = fromHalf(block.d);
    forCodesOf32(block.codes, static_cast<int>(group % 4), [&](int i, int code) { values[i] = d * (code - 8); });
  }
};

template <>
struct Codec<PAGODA_Q4_1> {
  static __device__ __forceinline__ void load(const uint8_t* row, int64_t group, float (&values)[kCodecColumns]) {
    const auto& block = reinterpret_cast<const BlockQ4_1*>(row)[group / 4];
    const float d = fromHalf(block.d), m = fromHalf(block.m);
    forCodesOf32(block.codes, static_cast<int>(group % 4), [&](int i, int code) { values[i] = fmaf(d, code, m); });
  }
};

template <>
struct Codec<PAGODA_Q5_0> {
  static __device__ __forceinline__ void load(const uint8_t* row, int64_t group, float (&values)[kCodecColumns]) {
    const auto& block = reinterpret_cast<const BlockQ5_0*>(row)[group / 4];
    const int part = static_cast<int>(group % 4), high = block.high[part];
    const float d = fromHalf(block.d);
    forCodesOf32(block.codes, part, [&](int i, int code) { values[i] = d * (code + 16 * (high >> i & 1) - 16); });
  }
};

template <>
struct Codec<PAGODA_Q5_1> {
  static __device__ __forceinline__ void load(const uint8_t* row, int64_t group, float (&values)[kCodecColumns]) {
    const auto& block = reinterpret_cast<const BlockQ5_1*>(row)[group / 4];
    const int part = static_cast<int>(group % 4), high = block.high[part];
    const float d = fromHalf(block.d), m = fromHalf(block.m);
    forCodesOf32(block.codes, part, [&](int i, int code) { values[i] = fmaf(d, code + 16 * (high >> i & 1), m); });
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

/// The factors of a group g of 32 columns of Q4_K and Q5_K: x = scale * code - min.
struct GroupFactors {
  float scale, min;

  template <typename Block>
  __device__ __forceinline__ GroupFactors(const Block& block, int g) {
    const SixBitFactors factors = sixBitFactors(block.scales, g);
    scale = fromHalf(block.d) * factors.scale;
    min = fromHalf(block.dmin) * factors.min;
  }
};

/// Eight low nibbles of a group g: two groups share 32 bytes, the first one in the low nibbles.
template <typename Set>
__device__ __forceinline__ void forCodesOfPair(const uint8_t* codes, int g, int part, Set set) {
  const auto* from = reinterpret_cast<const uint32_t*>(codes + 32 * (g / 2) + kCodecColumns * part);
  const uint32_t bytes[2] = {from[0], from[1]};
  forNibbles(bytes, 4 * (g % 2), set);
}

template <>
struct Codec<PAGODA_Q4_K> {
  static __device__ __forceinline__ void load(const uint8_t* row, int64_t group, float (&values)[kCodecColumns]) {
    const auto& block = reinterpret_cast<const BlockQ4_K*>(row)[group / 32];
    const int g = static_cast<int>(group % 32) / 4, part = static_cast<int>(group % 4);
    const GroupFactors factors(block, g);
    forCodesOfPair(block.codes, g, part, [&](int i, int code) { values[i] = fmaf(factors.scale, code, -factors.min); });
  }
};

template <>
struct Codec<PAGODA_Q5_K> {
  static __device__ __forceinline__ void load(const uint8_t* row, int64_t group, float (&values)[kCodecColumns]) {
    const auto& block = reinterpret_cast<const BlockQ5_K*>(row)[group / 32];
    const int g = static_cast<int>(group % 32) / 4, part = static_cast<int>(group % 4);
    const GroupFactors factors(block, g);
    const auto* from = reinterpret_cast<const uint32_t*>(block.high + kCodecColumns * part);
    const uint32_t high[2] = {from[0], from[1]};
    forCodesOfPair(block.codes, g, part, [&](int i, int code) {
      const auto fifth = static_cast<int>(high[i / 4] >> (8 * (i % 4) + g) & 1);
      values[i] = fmaf(factors.scale, code | fifth << 4, -factors.min);
    });
  }
};

template <>
struct Codec<PAGODA_Q6_K> {
  static __device__ __forceinline__ void load(const uint8_t* row, int64_t group, float (&values)[kCodecColumns]) {
    const auto& block = reinterpret_cast<const BlockQ6_K*>(row)[group / 32];
    const int g = static_cast<int>(group % 32) / 4, part = static_cast<int>(group % 4), quarter = g % 4;
    const uint8_t* lowFrom = block.low + 64 * (g / 4) + 32 * (quarter % 2) + kCodecColumns * part;
    const uint8_t* highFrom = block.high + 32 * (g / 4) + kCodecColumns * part;
    const uint32_t low[2] = {loadBytes4(lowFrom), loadBytes4(lowFrom + 4)};
    const uint32_t high[2] = {loadBytes4(highFrom), loadBytes4(highFrom + 4)};
    const float scale = fromHalf(block.d) * block.scales[2 * g + part / 2];
    forNibbles(low, quarter / 2 * 4, [&](int i, int code) {
      const auto upper = static_cast<int>(high[i / 4] >> (8 * (i % 4) + 2 * quarter) & 3);
      values[i] = scale * ((code | upper << 4) - 32);
    });
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
  static __device__ __forceinline__ void load(const uint8_t* row, int64_t group, float (&values)[kCodecColumns]) {
    const auto& block = reinterpret_cast<const BlockMxfp4*>(row)[group / 4];
    const int part = static_cast<int>(group % 4);
    const float scale = halvedPower(block.exponent);
    const uint8_t* from = block.codes + part % 2 * 8;
    const uint32_t bytes[2] = {loadUnaligned4(from), loadUnaligned4(from + 4)};
    forNibbles(bytes, part / 2 * 4, [&](int i, int code) { values[i] = scale * static_cast<float>(doubledFp4(code)); });
  }
};

/// Calls visit(std::integral_constant of the dtype) for one that products read as bf16: all but f32.
template <typename Visit>
auto withRoundedDtype(PagodaDtype dtype, Visit visit) {
  switch (dtype) {
    case PAGODA_F16:
      return visit(std::integral_constant<PagodaDtype, PAGODA_F16>());
    case PAGODA_Q8_0:
      return visit(std::integral_constant<PagodaDtype, PAGODA_Q8_0>());
    case PAGODA_Q4_0:
      return visit(std::integral_constant<PagodaDtype, PAGODA_Q4_0>());
    case PAGODA_Q4_1:
      return visit(std::integral_constant<PagodaDtype, PAGODA_Q4_1>());
    case PAGODA_Q5_0:
      return visit(std::integral_constant<PagodaDtype, PAGODA_Q5_0>());
    case PAGODA_Q5_1:
      return visit(std::integral_constant<PagodaDtype, PAGODA_Q5_1>());
    case PAGODA_Q4_K:
      return visit(std::integral_constant<PagodaDtype, PAGODA_Q4_K>());
    case PAGODA_Q5_K:
      return visit(std::integral_constant<PagodaDtype, PAGODA_Q5_K>());
    case PAGODA_Q6_K:
      return visit(std::integral_constant<PagodaDtype, PAGODA_Q6_K>());
    case PAGODA_MXFP4:
      return visit(std::integral_constant<PagodaDtype, PAGODA_MXFP4>());
    default:
      return visit(std::integral_constant<PagodaDtype, PAGODA_BF16>());
  }
}

/// The same of any dtype that weights may have.
template <typename Visit>
auto withDtype(PagodaDtype dtype, Visit visit) {
  if (dtype == PAGODA_F32) return visit(std::integral_constant<PagodaDtype, PAGODA_F32>());
  return withRoundedDtype(dtype, visit);
}

}  // namespace pagoda::cuda
