// Rounds floats to blocks, for checkpoints that are quantised as they are loaded.
//
// A sum of 32 numbers adds the second half to the first, then the halves of that, and so on, so that all instruction
// sets give the same bytes.
#include "../block-formats.h"
#include "half.h"
#include "isa-kernels.h"
#include "packed-format.h"

namespace pagoda::PAGODA_ISA {
namespace {

constexpr uint16_t kHalfNaN = 0x7e00;
constexpr int kLevels = 15;  // the largest code of four bits
constexpr int kVectors = kGroupColumns / kLanes;

// 32 numbers.
struct Group {
  f32v v[kVectors];
};

PAGODA_INLINE Group loadGroup(const float* values) {
  Group group;
  for (int i = 0; i < kVectors; ++i) group.v[i] = load(values + i * kLanes);
  return group;
}

// combine(first half, second half), until one vector is left.
template <class Combine>
PAGODA_INLINE f32v fold(Group group, Combine combine) {
  for (int width = kVectors / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) group.v[i] = combine(group.v[i], group.v[i + width]);
  }
  return group.v[0];
}

// The sum of term(i) over all vectors.
template <class Term>
PAGODA_INLINE float total(Term term) {
  Group terms;
  for (int i = 0; i < kVectors; ++i) terms.v[i] = term(i);
  return sum(fold(terms, [](f32v a, f32v b) { return add(a, b); }));
}

PAGODA_INLINE float largest(const Group& group) {
  return maxOf(fold(group, [](f32v a, f32v b) { return max(a, b); }));
}

PAGODA_INLINE Group negated(const Group& group) {
  Group result;
  for (int i = 0; i < kVectors; ++i) result.v[i] = sub(zero(), group.v[i]);
  return result;
}

bool allFinite(const float* values, int columns) {
  float products = 0;
  for (int i = 0; i < columns; i += kLanes) products += sum(mul(load(values + i), zero()));
  return products == 0;
}

constexpr float kMagic =
    12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, whose lowest byte it then ends with

// The integer in [0, limit] nearest to x, ties to even.
float nearest(float x, float limit) {
  const float inside = x > 0 ? (x < limit ? x : limit) : 0;
  return (inside + kMagic) - kMagic;
}

// The largest absolute value becomes code 127 or -127; each value the code nearest to it.
void encode(const float* values, BlockQ8_0& block) {
  const Group group = loadGroup(values);
  const float high = largest(group), low = -largest(negated(group));
  block.d = floatToHalf((high > -low ? high : -low) / 127);
  const float d = halfToFloat(block.d);
  if (!(d > 0)) return;
  for (int i = 0; i < kVectors; ++i) {
    const f32v inside = max(broadcast(-127), min(broadcast(127), div(group.v[i], broadcast(d))));
    storeLowBytes(block.codes + i * kLanes, add(inside, broadcast(kMagic)));
  }
}

// A line min + scale * code through the values of a group.
struct Line {
  float scale;
  float min;
};

// The nearest codes.
PAGODA_INLINE Group assign(const Group& group, Line line) {
  const f32v inverse = broadcast(line.scale > 0 ? 1 / line.scale : 0);
  Group codes;
  for (int i = 0; i < kVectors; ++i) {
    const f32v code = mul(sub(group.v[i], broadcast(line.min)), inverse);
    const f32v inside = min(broadcast(kLevels), max(zero(), code));
    codes.v[i] = sub(add(inside, broadcast(kMagic)), broadcast(kMagic));
  }
  return codes;
}

// The sum of the squared errors of these codes.
PAGODA_INLINE float errorOf(const Group& group, Line line, const Group& codes) {
  return total([&](int i) {
    const f32v value = add(broadcast(line.min), mul(broadcast(line.scale), codes.v[i]));
    const f32v difference = sub(value, group.v[i]);
    return mul(difference, difference);
  });
}

// The line of least squared error for these codes; with `atMostZero`, of those whose min is not positive.
PAGODA_INLINE Line fit(const Group& group, const Group& codes, bool atMostZero, Line otherwise) {
  const float x = total([&](int i) { return codes.v[i]; });
  const float xx = total([&](int i) { return mul(codes.v[i], codes.v[i]); });
  const float y = total([&](int i) { return group.v[i]; });
  const float xy = total([&](int i) { return mul(codes.v[i], group.v[i]); });
  const float determinant = kGroupColumns * xx - x * x;
  if (determinant <= 0) return otherwise;
  Line line = {(kGroupColumns * xy - x * y) / determinant, (xx * y - x * xy) / determinant};
  if (atMostZero && line.min > 0) line = {xy / xx, 0};
  return line.scale > 0 ? line : otherwise;
}

// Fits a line to the codes of the whole range and of narrower ones: fewer levels for outliers are finer steps for all
// others. The one of least error wins.
Line chooseLine(const Group& group, bool atMostZero) {
  constexpr float kCuts[] = {0.0f, 0.05f, 0.1f};  // of the range, at each end
  const float smallest = -largest(negated(group));
  const float low = atMostZero && smallest > 0 ? 0 : smallest;
  const float width = largest(group) - low;
  Line best = {width / kLevels, low};
  float least = errorOf(group, best, assign(group, best));
  for (const float share : kCuts) {
    const float cut = width * share;
    const Line narrow = {(width - 2 * cut) / kLevels, low == 0 ? 0 : low + cut};
    const Line line = fit(group, assign(group, narrow), atMostZero, narrow);
    const float error = errorOf(group, line, assign(group, line));
    if (error < least) {
      least = error;
      best = line;
    }
  }
  return best;
}

// Codes `low` in the low nibbles, `high` in the high ones.
PAGODA_INLINE void storeNibbles(f32v low, f32v high, uint8_t* to) {
  const f32v both = add(low, mul(high, broadcast(16)));
  storeLowBytes(reinterpret_cast<int8_t*>(to), add(both, broadcast(kMagic)));
}

void encode(const float* values, BlockQ4_1& block) {
  const Group group = loadGroup(values);
  const Line line = chooseLine(group, false);
  block.d = floatToHalf(line.scale);
  block.m = floatToHalf(line.min);
  const Group codes = assign(group, {halfToFloat(block.d), halfToFloat(block.m)});
  for (int i = 0; i < kVectors / 2; ++i) {
    storeNibbles(codes.v[i], codes.v[i + kVectors / 2], block.codes + i * kLanes);
  }
}

// As BlockQ4_K describes.
void storeFactors(const uint8_t (&scales)[8], const uint8_t (&mins)[8], uint8_t (&packed)[12]) {
  for (int g = 0; g < 4; ++g) {
    packed[g] = static_cast<uint8_t>(scales[g] | scales[g + 4] >> 4 << 6);
    packed[g + 4] = static_cast<uint8_t>(mins[g] | mins[g + 4] >> 4 << 6);
    packed[g + 8] = static_cast<uint8_t>((scales[g + 4] & 15) | mins[g + 4] << 4);
  }
}

// The lines of the groups, then their factors rounded to six bits, then the codes for what became of the lines.
void encode(const float* values, BlockQ4_K& block) {
  constexpr float kFactors = 63;
  Group groups[8];
  Line lines[8];
  float scale = 0, min = 0;
  for (int g = 0; g < 8; ++g) {
    groups[g] = loadGroup(values + g * kGroupColumns);
    lines[g] = chooseLine(groups[g], true);
    scale = lines[g].scale > scale ? lines[g].scale : scale;
    min = -lines[g].min > min ? -lines[g].min : min;
  }
  block.d = floatToHalf(scale / kFactors);
  block.dmin = floatToHalf(min / kFactors);
  const float d = halfToFloat(block.d), dmin = halfToFloat(block.dmin);
  uint8_t scales[8], mins[8];
  Group codes[8];
  for (int g = 0; g < 8; ++g) {
    scales[g] = static_cast<uint8_t>(d > 0 ? nearest(lines[g].scale / d, kFactors) : 0);
    mins[g] = static_cast<uint8_t>(dmin > 0 ? nearest(-lines[g].min / dmin, kFactors) : 0);
    codes[g] = assign(groups[g], {d * scales[g], -dmin * mins[g]});
  }
  storeFactors(scales, mins, block.scales);
  for (int g = 0; g < 8; g += 2) {
    for (int i = 0; i < kVectors; ++i) {
      storeNibbles(codes[g].v[i], codes[g + 1].v[i], block.codes + g / 2 * kGroupColumns + i * kLanes);
    }
  }
}

template <class Block>
void encodeAs(const float* values, int columns, void* to) {
  Block block = {};
  if (allFinite(values, columns)) {
    encode(values, block);
  } else {
    block.d = kHalfNaN;
  }
  __builtin_memcpy(to, &block, sizeof block);
}

}  // namespace

void quantizeBlock(PagodaDtype dtype, const float* values, void* block) {
  if (dtype == PAGODA_Q8_0) encodeAs<BlockQ8_0>(values, 32, block);
  if (dtype == PAGODA_Q4_1) encodeAs<BlockQ4_1>(values, 32, block);
  if (dtype == PAGODA_Q4_K) encodeAs<BlockQ4_K>(values, 256, block);
}

}  // namespace pagoda::PAGODA_ISA
