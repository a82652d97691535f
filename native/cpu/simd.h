// The only file that knows an instruction set: one float vector and what the kernels do with it.
//
// It is compiled once per instruction set into namespace PAGODA_ISA, everything with internal linkage, so that the
// linker can never mix two sets. `max`, `min` return the second operand where one is NaN, so that a NaN on the right
// survives. `fma` is rounded once, except in the generic variant, which has no such instruction.
#ifndef PAGODA_CPU_SIMD_H
#define PAGODA_CPU_SIMD_H

#include <stdint.h>

#if defined(__AVX2__)
#pragma GCC diagnostic push  // "undefined" vectors inside the header itself
#pragma GCC diagnostic ignored "-Wuninitialized"
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#pragma GCC diagnostic pop
#elif defined(__aarch64__)
#include <arm_neon.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

#define PAGODA_INLINE inline __attribute__((always_inline))

namespace pagoda::PAGODA_ISA {
namespace {

// sum: adds the second half of the lanes to the first, then the halves of that, the same for all.
// kAccumulators: vectors of partial sums that leave room for operands in the register file.
// kBf16Dot: a multiply-add of bf16 pairs exists, see dotBf16.

#if defined(__AVX512F__) && defined(__AVX512BF16__)

using f32v = __m512;
constexpr int kLanes = 16;
constexpr int kAccumulators = 24;
constexpr bool kBf16Dot = true;

PAGODA_INLINE __mmask16 firstLanes(int n) { return static_cast<__mmask16>((1u << n) - 1); }
PAGODA_INLINE f32v broadcast(float x) { return _mm512_set1_ps(x); }
PAGODA_INLINE f32v load(const float* p) { return _mm512_loadu_ps(p); }
PAGODA_INLINE void store(float* p, f32v v) { _mm512_storeu_ps(p, v); }
PAGODA_INLINE f32v loadPartial(const float* p, int n) { return _mm512_maskz_loadu_ps(firstLanes(n), p); }
PAGODA_INLINE void storePartial(float* p, f32v v, int n) { _mm512_mask_storeu_ps(p, firstLanes(n), v); }
PAGODA_INLINE f32v widenBf16(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }
PAGODA_INLINE f32v loadBf16(const uint16_t* p) {
  return widenBf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
PAGODA_INLINE f32v loadBf16Partial(const uint16_t* p, int n) {
  return widenBf16(_mm256_maskz_loadu_epi16(firstLanes(n), p));
}
PAGODA_INLINE f32v add(f32v a, f32v b) { return _mm512_add_ps(a, b); }
PAGODA_INLINE f32v sub(f32v a, f32v b) { return _mm512_sub_ps(a, b); }
PAGODA_INLINE f32v mul(f32v a, f32v b) { return _mm512_mul_ps(a, b); }
PAGODA_INLINE f32v div(f32v a, f32v b) { return _mm512_div_ps(a, b); }
PAGODA_INLINE f32v max(f32v a, f32v b) { return _mm512_max_ps(a, b); }
PAGODA_INLINE f32v min(f32v a, f32v b) { return _mm512_min_ps(a, b); }
PAGODA_INLINE f32v fma(f32v a, f32v b, f32v c) { return _mm512_fmadd_ps(a, b, c); }
PAGODA_INLINE f32v whereLess(f32v a, f32v b, f32v yes, f32v no) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
}
// 2^n for t = 1.5 * 2^23 + n, n an integer in [-127, 128]; 0 and infinity at the ends.
PAGODA_INLINE f32v powerOfTwo(f32v t) {
  const __m512i bits = _mm512_slli_epi32(_mm512_castps_si512(t), 23);
  return _mm512_castsi512_ps(_mm512_add_epi32(bits, _mm512_set1_epi32(0x3f800000)));
}
PAGODA_INLINE float sum(f32v v) {
  const __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_add_ss(c, _mm_shuffle_ps(c, c, 1)));
}
PAGODA_INLINE float maxOf(f32v v) {
  const __m256 a = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  const __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 c = _mm_max_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_max_ss(c, _mm_shuffle_ps(c, c, 1)));
}
// Lanes [begin, end) of `v`, the others from `other`.
PAGODA_INLINE f32v keepLanes(f32v v, int begin, int end, f32v other) {
  begin = begin < 0 ? 0 : begin;
  end = end > kLanes ? kLanes : end;
  if (begin >= end) return other;
  const __mmask16 mask = static_cast<__mmask16>(firstLanes(end) & ~firstLanes(begin));
  return _mm512_mask_blend_ps(mask, other, v);
}
// acc + a[0] * b[lane][0] + a[1] * b[lane][1] in bf16, subnormals read as zero; `pair` holds a[0] in its low half.
PAGODA_INLINE f32v dotBf16(f32v acc, uint32_t pair, f32v b) {
  const __m512i a = _mm512_set1_epi32(static_cast<int>(pair));
  return _mm512_dpbf16_ps(acc, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
}
// n pairs of floats that are bf16 numbers, as such.
PAGODA_INLINE void storeBf16Pairs(uint16_t* to, f32v even, f32v odd, int n) {
  const __m512i low = _mm512_srli_epi32(_mm512_castps_si512(even), 16);
  const __m512i pairs = _mm512_or_si512(low, _mm512_castps_si512(odd));
  if (n >= kLanes) return _mm512_storeu_si512(to, pairs);
  _mm512_mask_storeu_epi32(to, firstLanes(n), pairs);
}
// Rounds 2 * kLanes floats to bf16, nearest even, as pairs of neighbours.
PAGODA_INLINE __m512i roundToBf16Pairs(f32v first, f32v second) {
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second, first));
}
// Rounds n floats to bf16, nearest even.
PAGODA_INLINE void roundToBf16(uint16_t* to, const float* from, int n) {
  const __m256bh rounded = _mm512_cvtneps_pbh(loadPartial(from, n));
  _mm256_mask_storeu_epi16(to, firstLanes(n), reinterpret_cast<__m256i>(rounded));
}
PAGODA_INLINE f32v roundToBf16(f32v v) { return widenBf16(reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v))); }

#else

constexpr bool kBf16Dot = false;

#if defined(__AVX2__) && defined(__FMA__)

using f32v = __m256;
constexpr int kLanes = 8;
constexpr int kAccumulators = 12;

PAGODA_INLINE f32v broadcast(float x) { return _mm256_set1_ps(x); }
PAGODA_INLINE f32v load(const float* p) { return _mm256_loadu_ps(p); }
PAGODA_INLINE void store(float* p, f32v v) { _mm256_storeu_ps(p, v); }
PAGODA_INLINE f32v loadBf16(const uint16_t* p) {
  const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
}
// The first, and the second, members of kLanes bf16 pairs.
PAGODA_INLINE f32v loadEvenBf16(const uint16_t* p) {
  const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16));
}
PAGODA_INLINE f32v loadOddBf16(const uint16_t* p) {
  const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
}
PAGODA_INLINE f32v add(f32v a, f32v b) { return _mm256_add_ps(a, b); }
PAGODA_INLINE f32v sub(f32v a, f32v b) { return _mm256_sub_ps(a, b); }
PAGODA_INLINE f32v mul(f32v a, f32v b) { return _mm256_mul_ps(a, b); }
PAGODA_INLINE f32v div(f32v a, f32v b) { return _mm256_div_ps(a, b); }
PAGODA_INLINE f32v max(f32v a, f32v b) { return _mm256_max_ps(a, b); }
PAGODA_INLINE f32v min(f32v a, f32v b) { return _mm256_min_ps(a, b); }
PAGODA_INLINE f32v fma(f32v a, f32v b, f32v c) { return _mm256_fmadd_ps(a, b, c); }
PAGODA_INLINE f32v whereLess(f32v a, f32v b, f32v yes, f32v no) {
  return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
PAGODA_INLINE f32v powerOfTwo(f32v t) {
  const __m256i bits = _mm256_slli_epi32(_mm256_castps_si256(t), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(bits, _mm256_set1_epi32(0x3f800000)));
}
PAGODA_INLINE float sum(f32v v) {
  const __m128 b = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_add_ss(c, _mm_shuffle_ps(c, c, 1)));
}
PAGODA_INLINE float maxOf(f32v v) {
  const __m128 b = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 c = _mm_max_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_max_ss(c, _mm_shuffle_ps(c, c, 1)));
}

#elif defined(__aarch64__)

using f32v = float32x4_t;
constexpr int kLanes = 4;
constexpr int kAccumulators = 24;

PAGODA_INLINE f32v broadcast(float x) { return vdupq_n_f32(x); }
PAGODA_INLINE f32v load(const float* p) { return vld1q_f32(p); }
PAGODA_INLINE void store(float* p, f32v v) { vst1q_f32(p, v); }
PAGODA_INLINE f32v loadBf16(const uint16_t* p) {
  return vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(vld1_u16(p)), 16));
}
PAGODA_INLINE f32v loadEvenBf16(const uint16_t* p) {
  return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_u16(vld1q_u16(p)), 16));
}
PAGODA_INLINE f32v loadOddBf16(const uint16_t* p) {
  return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_u16(vld1q_u16(p)), vdupq_n_u32(0xffff0000u)));
}
PAGODA_INLINE f32v add(f32v a, f32v b) { return vaddq_f32(a, b); }
PAGODA_INLINE f32v sub(f32v a, f32v b) { return vsubq_f32(a, b); }
PAGODA_INLINE f32v mul(f32v a, f32v b) { return vmulq_f32(a, b); }
PAGODA_INLINE f32v div(f32v a, f32v b) { return vdivq_f32(a, b); }
PAGODA_INLINE f32v max(f32v a, f32v b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
PAGODA_INLINE f32v min(f32v a, f32v b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
PAGODA_INLINE f32v fma(f32v a, f32v b, f32v c) { return vfmaq_f32(c, a, b); }
PAGODA_INLINE f32v whereLess(f32v a, f32v b, f32v yes, f32v no) { return vbslq_f32(vcltq_f32(a, b), yes, no); }
PAGODA_INLINE f32v powerOfTwo(f32v t) {
  const uint32x4_t bits = vshlq_n_u32(vreinterpretq_u32_f32(t), 23);
  return vreinterpretq_f32_u32(vaddq_u32(bits, vdupq_n_u32(0x3f800000)));
}
PAGODA_INLINE float sum(f32v v) {
  const float32x2_t halves = vadd_f32(vget_low_f32(v), vget_high_f32(v));
  return vget_lane_f32(vpadd_f32(halves, halves), 0);
}
PAGODA_INLINE float maxOf(f32v v) { return vmaxvq_f32(v); }

#else  // generic: the compiler's own vectors, SSE2 on x86-64

using f32v = float __attribute__((vector_size(16)));
using u32v = uint32_t __attribute__((vector_size(16)));
constexpr int kLanes = 4;
constexpr int kAccumulators = 8;  // products need a register too

PAGODA_INLINE f32v broadcast(float x) { return f32v{x, x, x, x}; }
PAGODA_INLINE f32v load(const float* p) {
  f32v v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
PAGODA_INLINE void store(float* p, f32v v) { __builtin_memcpy(p, &v, sizeof v); }
PAGODA_INLINE f32v asFloats(u32v bits) { return reinterpret_cast<f32v>(bits); }
PAGODA_INLINE f32v loadBf16(const uint16_t* p) {
  uint16_t __attribute__((vector_size(8))) v;
  __builtin_memcpy(&v, p, sizeof v);
  return asFloats(__builtin_convertvector(v, u32v) << 16);
}
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the first of a pair is the low half");
PAGODA_INLINE u32v loadPairs(const uint16_t* p) {
  u32v v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
PAGODA_INLINE f32v loadEvenBf16(const uint16_t* p) { return asFloats(loadPairs(p) << 16); }
PAGODA_INLINE f32v loadOddBf16(const uint16_t* p) { return asFloats(loadPairs(p) & 0xffff0000u); }
PAGODA_INLINE f32v add(f32v a, f32v b) { return a + b; }
PAGODA_INLINE f32v sub(f32v a, f32v b) { return a - b; }
PAGODA_INLINE f32v mul(f32v a, f32v b) { return a * b; }
PAGODA_INLINE f32v div(f32v a, f32v b) { return a / b; }
PAGODA_INLINE f32v max(f32v a, f32v b) { return a > b ? a : b; }
PAGODA_INLINE f32v min(f32v a, f32v b) { return a < b ? a : b; }
PAGODA_INLINE f32v fma(f32v a, f32v b, f32v c) { return a * b + c; }
PAGODA_INLINE f32v whereLess(f32v a, f32v b, f32v yes, f32v no) { return a < b ? yes : no; }
PAGODA_INLINE f32v powerOfTwo(f32v t) { return asFloats((reinterpret_cast<u32v>(t) << 23) + 0x3f800000u); }
PAGODA_INLINE float sum(f32v v) { return (v[0] + v[2]) + (v[1] + v[3]); }
PAGODA_INLINE float maxOf(f32v v) {
  const float a = v[0] > v[2] ? v[0] : v[2];
  const float b = v[1] > v[3] ? v[1] : v[3];
  return a > b ? a : b;
}

#endif

// Without masks, the first n < kLanes elements pass through memory; absent lanes read as zero.
PAGODA_INLINE f32v loadPartial(const float* p, int n) {
  float lanes[kLanes] = {};
  for (int i = 0; i < n; ++i) lanes[i] = p[i];
  return load(lanes);
}
PAGODA_INLINE void storePartial(float* p, f32v v, int n) {
  float lanes[kLanes];
  store(lanes, v);
  for (int i = 0; i < n; ++i) p[i] = lanes[i];
}
PAGODA_INLINE f32v loadBf16Partial(const uint16_t* p, int n) {
  uint16_t lanes[kLanes] = {};
  for (int i = 0; i < n; ++i) lanes[i] = p[i];
  return loadBf16(lanes);
}
PAGODA_INLINE f32v keepLanes(f32v v, int begin, int end, f32v other) {
  float kept[kLanes];
  float lanes[kLanes];
  store(kept, v);
  store(lanes, other);
  for (int i = 0; i < kLanes; ++i) lanes[i] = i >= begin && i < end ? kept[i] : lanes[i];
  return load(lanes);
}

#endif

// ---- bytes and integers: quantised weights -----------------------------------------------------------

// kLanes words; a word of codes is four bytes. The bits of a byte are taken out by shifts of words and a mask.
using u32v = uint32_t __attribute__((vector_size(4 * kLanes)));
using i32v = int32_t __attribute__((vector_size(4 * kLanes)));

PAGODA_INLINE u32v loadWords(const void* p) {
  u32v v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
// The four bytes at p in every lane.
PAGODA_INLINE u32v broadcastWord(const void* p) {
  uint32_t word;
  __builtin_memcpy(&word, p, sizeof word);
  return word - u32v{};
}
PAGODA_INLINE i32v broadcastInt(int32_t x) { return x - i32v{}; }
PAGODA_INLINE f32v toFloat(i32v v) { return __builtin_convertvector(v, f32v); }

// dot<kBits>(acc, codes, a): acc + the four products of each lane, without overflow. Codes are kBits bits wide: less
// than 8 of them are a number from 0 on, 8 are the byte plus kByteOffset, unsigned if that is 128 and signed if it is
// 0. `a` are signed bytes in [-127, 127].
// fp4Codes: bytes of 0 to 15, which are FP4 (block-formats.h), become twice its number plus 12.
// storeLowBytes: the lowest byte of each lane. loadHalves, loadUnsigned and loadSigned bytes: kLanes numbers as floats.

alignas(16) constexpr uint8_t kFp4Codes[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};

#if defined(__AVX512VNNI__) && defined(__AVX512F__)

constexpr int32_t kByteOffset = 128;

PAGODA_INLINE u32v fp4Codes(u32v bytes) {
  const __m128i table = _mm_load_si128(reinterpret_cast<const __m128i*>(kFp4Codes));
  const __m512i codes = _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), reinterpret_cast<__m512i>(bytes));
  return reinterpret_cast<u32v>(codes);
}
template <int kBits>
PAGODA_INLINE i32v dot(i32v acc, u32v codes, u32v a) {
  return reinterpret_cast<i32v>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(acc), reinterpret_cast<__m512i>(codes),
                                                    reinterpret_cast<__m512i>(a)));
}
PAGODA_INLINE void storeLowBytes(int8_t* p, f32v v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_castps_si512(v)));
}
PAGODA_INLINE f32v loadHalves(const void* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
}
PAGODA_INLINE f32v loadUnsigned(const uint8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
PAGODA_INLINE f32v loadSigned(const uint8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}

#elif defined(__AVX2__)

PAGODA_INLINE u32v fp4Codes(u32v bytes) {
  const __m128i table = _mm_load_si128(reinterpret_cast<const __m128i*>(kFp4Codes));
  const __m256i codes = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), reinterpret_cast<__m256i>(bytes));
  return reinterpret_cast<u32v>(codes);
}

#if defined(__AVXVNNI__)

constexpr int32_t kByteOffset = 128;

template <int kBits>
PAGODA_INLINE i32v dot(i32v acc, u32v codes, u32v a) {
  return reinterpret_cast<i32v>(_mm256_dpbusd_avx_epi32(
      reinterpret_cast<__m256i>(acc), reinterpret_cast<__m256i>(codes), reinterpret_cast<__m256i>(a)));
}

#else

constexpr int32_t kByteOffset = 0;

// Sums of two products have 16 bits: at most 2 * 128 * 127. The sign of a code moves to the other factor.
template <int kBits>
PAGODA_INLINE i32v dot(i32v acc, u32v codes, u32v a) {
  __m256i sizes = reinterpret_cast<__m256i>(codes);
  __m256i factors = reinterpret_cast<__m256i>(a);
  if constexpr (kBits == 8) {
    factors = _mm256_sign_epi8(factors, sizes);
    sizes = _mm256_abs_epi8(sizes);
  }
  const __m256i pairs = _mm256_maddubs_epi16(sizes, factors);
  return acc + reinterpret_cast<i32v>(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

#endif

PAGODA_INLINE void storeLowBytes(int8_t* p, f32v v) {
  const __m256i lowest = _mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(255));
  const __m128i pairs = _mm_packus_epi32(_mm256_castsi256_si128(lowest), _mm256_extracti128_si256(lowest, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(pairs, pairs));
}
PAGODA_INLINE f32v loadHalves(const void* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}
PAGODA_INLINE f32v loadUnsigned(const uint8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
PAGODA_INLINE f32v loadSigned(const uint8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}

#else

constexpr int32_t kByteOffset = 0;

#if defined(__ARM_FEATURE_DOTPROD)

template <int kBits>
PAGODA_INLINE i32v dot(i32v acc, u32v codes, u32v a) {
  return reinterpret_cast<i32v>(
      vdotq_s32(reinterpret_cast<int32x4_t>(acc), reinterpret_cast<int8x16_t>(codes), reinterpret_cast<int8x16_t>(a)));
}

#elif defined(__aarch64__)

// Products have 16 bits, their sums 32.
template <int kBits>
PAGODA_INLINE i32v dot(i32v acc, u32v codes, u32v a) {
  const int8x16_t x = reinterpret_cast<int8x16_t>(codes);
  const int8x16_t y = reinterpret_cast<int8x16_t>(a);
  const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(x), vget_low_s8(y)));
  const int32x4_t high = vpaddlq_s16(vmull_high_s8(x, y));
  return acc + reinterpret_cast<i32v>(vpaddq_s32(low, high));
}

#elif defined(__SSE2__)

// The bytes of even and of odd place as 16 bits.
template <int kBits>
PAGODA_INLINE i32v dot(i32v acc, u32v codes, u32v a) {
  const __m128i x = reinterpret_cast<__m128i>(codes);
  const __m128i y = reinterpret_cast<__m128i>(a);
  const __m128i even = _mm_madd_epi16(_mm_srai_epi16(_mm_slli_epi16(x, 8), 8), _mm_srai_epi16(_mm_slli_epi16(y, 8), 8));
  const __m128i odd = _mm_madd_epi16(_mm_srai_epi16(x, 8), _mm_srai_epi16(y, 8));
  return acc + reinterpret_cast<i32v>(_mm_add_epi32(even, odd));
}

#else

template <int kBits>
PAGODA_INLINE i32v dot(i32v acc, u32v codes, u32v a) {
  for (int shift = 0; shift < 32; shift += 8) {
    acc += (reinterpret_cast<i32v>(codes << shift) >> 24) * (reinterpret_cast<i32v>(a << shift) >> 24);
  }
  return acc;
}

#endif

#if defined(__aarch64__)

PAGODA_INLINE u32v fp4Codes(u32v bytes) {
  return reinterpret_cast<u32v>(vqtbl1q_u8(vld1q_u8(kFp4Codes), reinterpret_cast<uint8x16_t>(bytes)));
}

#else

// From 4 on a code is (2 + bit 0) << bit 1; no byte's sum or difference leaves it.
PAGODA_INLINE u32v fp4Codes(u32v bytes) {
  constexpr uint32_t kOnes = 0x01010101u;
  const auto whole = [](u32v bits) { return (bits & kOnes) * 255; };  // bit 0 of each byte in all of its bits
  const u32v small = bytes & (3 * kOnes);
  const u32v once = 4 * kOnes + ((bytes & kOnes) << 1);
  const u32v large = once + (once & whole(bytes >> 1));
  const u32v isLarge = whole(bytes >> 2), isNegative = whole(bytes >> 3);
  const u32v size = (small & ~isLarge) | (large & isLarge);
  return ((12 * kOnes - size) & isNegative) | ((12 * kOnes + size) & ~isNegative);
}

#endif

PAGODA_INLINE void storeLowBytes(int8_t* p, f32v v) {
  using Bytes = int8_t __attribute__((vector_size(kLanes)));
  const Bytes bytes = __builtin_convertvector(reinterpret_cast<i32v>(v), Bytes);
  __builtin_memcpy(p, &bytes, sizeof bytes);
}

// Read as f32 the exponent is too small by 127 - 15; the product also renormalises subnormals.
PAGODA_INLINE f32v loadHalves(const void* p) {
  uint16_t __attribute__((vector_size(2 * kLanes))) halves;
  __builtin_memcpy(&halves, p, sizeof halves);
  const u32v bits = __builtin_convertvector(halves, u32v);
  const u32v size = (bits & 0x7fffu) << 13;
  const u32v scaled = reinterpret_cast<u32v>(mul(reinterpret_cast<f32v>(size), broadcast(0x1p112f)));
  const u32v value = size >= 0x0f800000u ? size | 0x7f800000u : scaled;
  return reinterpret_cast<f32v>(value | (bits & 0x8000u) << 16);
}
PAGODA_INLINE f32v loadUnsigned(const uint8_t* p) {
  uint8_t __attribute__((vector_size(kLanes))) bytes;
  __builtin_memcpy(&bytes, p, sizeof bytes);
  return toFloat(__builtin_convertvector(bytes, i32v));
}
PAGODA_INLINE f32v loadSigned(const uint8_t* p) {
  int8_t __attribute__((vector_size(kLanes))) bytes;
  __builtin_memcpy(&bytes, p, sizeof bytes);
  return toFloat(__builtin_convertvector(bytes, i32v));
}

#endif

// ---- built on the above, the same for all ----------------------------------------------------------

PAGODA_INLINE f32v zero() { return broadcast(0.0f); }

// halvedPower (half.h) of kLanes bytes.
PAGODA_INLINE f32v loadHalvedPowers(const uint8_t* p) {
  // 2^23 more has the byte in its lowest bits.
  const u32v bits = reinterpret_cast<u32v>(add(loadUnsigned(p), broadcast(0x1p23f))) << 23;
  const u32v least = 0x00400000u - u32v{};
  return mul(reinterpret_cast<f32v>(bits > least ? bits : least), broadcast(0.5f));
}

// First n <= kLanes elements.
PAGODA_INLINE f32v loadSome(const float* p, int n) { return n >= kLanes ? load(p) : loadPartial(p, n); }
PAGODA_INLINE f32v loadSome(const uint16_t* p, int n) { return n >= kLanes ? loadBf16(p) : loadBf16Partial(p, n); }
PAGODA_INLINE f32v loadSome(const int8_t* p, int n) {
  uint8_t lanes[kLanes] = {};
  if (n >= kLanes) return loadSigned(reinterpret_cast<const uint8_t*>(p));
  for (int i = 0; i < n; ++i) lanes[i] = static_cast<uint8_t>(p[i]);
  return loadSigned(lanes);
}
PAGODA_INLINE void storeSome(float* p, f32v v, int n) {
  if (n >= kLanes) return store(p, v);
  storePartial(p, v, n);
}

// e^x within 1.1 ulp; exp(0) is 1, results below 2^-126 may be 0 and above 2^127.5 infinity.
// x = n ln 2 + r, |r| <= ln 2 / 2; the polynomial is that of Cephes expf (Moshier).
PAGODA_INLINE f32v exp(f32v x) {
  x = min(broadcast(88.72f), max(broadcast(-88.02f), x));
  const f32v magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const f32v t = fma(x, broadcast(1.44269504f), magic);
  const f32v n = sub(t, magic);
  f32v r = fma(n, broadcast(-0.693359375f), x);
  r = fma(n, broadcast(2.12194440e-4f), r);
  f32v p = broadcast(1.9875691500e-4f);
  p = fma(p, r, broadcast(1.3981999507e-3f));
  p = fma(p, r, broadcast(8.3334519073e-3f));
  p = fma(p, r, broadcast(4.1665795894e-2f));
  p = fma(p, r, broadcast(1.6666665459e-1f));
  p = fma(p, r, broadcast(5.0000001201e-1f));
  p = add(fma(p, mul(r, r), r), broadcast(1.0f));
  return mul(p, powerOfTwo(t));
}

PAGODA_INLINE float exp(float x) {
  float lanes[kLanes];
  store(lanes, exp(broadcast(x)));
  return lanes[0];
}

PAGODA_INLINE f32v absolute(f32v x) { return max(sub(zero(), x), x); }

// Within 1.5 ulp: Cephes tanhf below 0.625, 1 - 2 / (e^2x + 1) above.
PAGODA_INLINE f32v tanh(f32v x) {
  const f32v size = absolute(x);
  const f32v z = mul(x, x);
  f32v p = broadcast(-5.70498872745e-3f);
  p = fma(p, z, broadcast(2.06390887954e-2f));
  p = fma(p, z, broadcast(-5.37397155531e-2f));
  p = fma(p, z, broadcast(1.33314422036e-1f));
  p = fma(p, z, broadcast(-3.33332819422e-1f));
  const f32v small = fma(mul(p, z), x, x);
  const f32v one = broadcast(1.0f);
  const f32v e = exp(add(size, size));
  const f32v large = sub(one, div(broadcast(2.0f), add(e, one)));
  const f32v signedLarge = whereLess(x, zero(), sub(zero(), large), large);
  return whereLess(size, broadcast(0.625f), small, signedLarge);
}

// 1 + erf(x), absolute error below 7e-7: Abramowitz and Stegun 7.1.26 on |x|.
PAGODA_INLINE f32v onePlusErf(f32v x) {
  const f32v one = broadcast(1.0f);
  const f32v size = absolute(x);
  const f32v t = div(one, fma(size, broadcast(0.3275911f), one));
  f32v p = broadcast(1.061405429f);
  p = fma(p, t, broadcast(-1.453152027f));
  p = fma(p, t, broadcast(1.421413741f));
  p = fma(p, t, broadcast(-0.284496736f));
  p = fma(p, t, broadcast(0.254829592f));
  const f32v tail = mul(mul(p, t), exp(sub(zero(), mul(size, size))));  // erfc(|x|)
  return whereLess(x, zero(), tail, sub(broadcast(2.0f), tail));
}

}  // namespace
}  // namespace pagoda::PAGODA_ISA

#endif
