// Rounds floats to blocks, for checkpoints that are quantised as they are loaded.
//
// Sums are kept in eight lanes, so that compilers can use vectors and all instruction sets give the same bytes.
#include "../block-formats.h"
#include "half.h"
#include "isa-kernels.h"
#include "packed-format.h"

namespace pagoda::PAGODA_ISA {
namespace {

constexpr uint16_t kHalfNaN = 0x7e00;
constexpr int kLevels = 15;  // the largest code of four bits
constexpr int kSumLanes = 8;

float smaller(float a, float b) { return a < b ? a : b; }
float larger(float a, float b) { return a > b ? a : b; }

// body(i, lane) for each of the 32 columns of a group.
template <class Body>
PAGODA_INLINE void forColumns(Body body) {
  for (int i = 0; i < kGroupColumns; i += kSumLanes) {
    for (int lane = 0; lane < kSumLanes; ++lane) body(i + lane, lane);
  }
}

PAGODA_INLINE float total(const float (&lanes)[kSumLanes]) {
  float pairs[4];
  for (int i = 0; i < 4; ++i) pairs[i] = lanes[i] + lanes[i + 4];
  return (pairs[0] + pairs[2]) + (pairs[1] + pairs[3]);
}

// The integer in [0, limit] nearest to x, ties to even.
PAGODA_INLINE float nearest(float x, float limit) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  return (smaller(larger(x, 0.0f), limit) + kMagic) - kMagic;
}

bool allFinite(const float* values, int columns) {
  float lanes[kSumLanes] = {};
  for (int group = 0; group < columns; group += kGroupColumns) {
    forColumns([&](int i, int lane) { lanes[lane] += values[group + i] * 0.0f; });
  }
  return total(lanes) == 0;
}

// The smallest and the largest value of a group.
struct Range {
  float low;
  float high;
};

Range rangeOf(const float* values) {
  float low[kSumLanes], high[kSumLanes];
  for (int lane = 0; lane < kSumLanes; ++lane) low[lane] = high[lane] = values[lane];
  forColumns([&](int i, int lane) {
    low[lane] = smaller(low[lane], values[i]);
    high[lane] = larger(high[lane], values[i]);
  });
  Range range = {low[0], high[0]};
  for (int lane = 1; lane < kSumLanes; ++lane) {
    range = {smaller(range.low, low[lane]), larger(range.high, high[lane])};
  }
  return range;
}

// The largest absolute value becomes code 127 or -127; each value the code nearest to it.
void encode(const float* values, BlockQ8_0& block) {
  const Range range = rangeOf(values);
  block.d = floatToHalf(larger(-range.low, range.high) / 127);
  const float d = halfToFloat(block.d);
  if (!(d > 0)) return;
  forColumns([&](int i, int) {
    const float size = nearest((values[i] < 0 ? -values[i] : values[i]) / d, 127);
    block.codes[i] = static_cast<int8_t>(values[i] < 0 ? -size : size);
  });
}

// A line min + scale * code through the values of a group.
struct Line {
  float scale;
  float min;
};

// Writes the nearest codes.
PAGODA_INLINE void assign(const float* values, Line line, float (&codes)[kGroupColumns]) {
  const float inverse = line.scale > 0 ? 1 / line.scale : 0;
  forColumns([&](int i, int) { codes[i] = nearest((values[i] - line.min) * inverse, kLevels); });
}

// The sum of the squared errors of these codes.
PAGODA_INLINE float errorOf(const float* values, Line line, const float (&codes)[kGroupColumns]) {
  float lanes[kSumLanes] = {};
  forColumns([&](int i, int lane) {
    const float difference = (line.min + line.scale * codes[i]) - values[i];
    lanes[lane] += difference * difference;
  });
  return total(lanes);
}

// The line of least squared error for these codes; with `atMostZero`, of those whose min is not positive.
PAGODA_INLINE Line fit(const float* values, const float (&codes)[kGroupColumns], bool atMostZero, Line otherwise) {
  float x[kSumLanes] = {}, xx[kSumLanes] = {}, y[kSumLanes] = {}, xy[kSumLanes] = {};
  forColumns([&](int i, int lane) {
    x[lane] += codes[i];
    xx[lane] += codes[i] * codes[i];
    y[lane] += values[i];
    xy[lane] += codes[i] * values[i];
  });
  const float sumX = total(x), sumXX = total(xx), sumY = total(y), sumXY = total(xy);
  const float determinant = kGroupColumns * sumXX - sumX * sumX;
  if (determinant <= 0) return otherwise;
  Line line = {(kGroupColumns * sumXY - sumX * sumY) / determinant, (sumXX * sumY - sumX * sumXY) / determinant};
  if (atMostZero && line.min > 0) line = {sumXY / sumXX, 0};
  return line.scale > 0 ? line : otherwise;
}

// Fits a line to the codes of the whole range and of narrower ones: fewer levels for outliers are finer steps for all
// others. The one of least error wins.
Line chooseLine(const float* values, bool atMostZero) {
  constexpr float kCuts[] = {0.0f, 0.05f, 0.1f};  // of the range, at each end
  Range range = rangeOf(values);
  if (atMostZero) range.low = smaller(range.low, 0.0f);
  const float width = range.high - range.low;
  float codes[kGroupColumns];
  Line best = {width / kLevels, range.low};
  assign(values, best, codes);
  float least = errorOf(values, best, codes);
  for (const float share : kCuts) {
    const float cut = width * share;
    const Line narrow = {(width - 2 * cut) / kLevels, range.low == 0 ? 0 : range.low + cut};
    assign(values, narrow, codes);
    const Line line = fit(values, codes, atMostZero, narrow);
    assign(values, line, codes);
    const float error = errorOf(values, line, codes);
    if (error < least) {
      least = error;
      best = line;
    }
  }
  return best;
}

// The codes of 64 columns as BlockQ4_K has them, of 32 (16 bytes) with half = 16.
PAGODA_INLINE void storeNibbles(const float* codes, int half, uint8_t* to) {
  for (int i = 0; i < half; ++i) {
    to[i] = static_cast<uint8_t>(static_cast<int>(codes[i]) | static_cast<int>(codes[i + half]) << 4);
  }
}

void encode(const float* values, BlockQ4_1& block) {
  const Line line = chooseLine(values, false);
  block.d = floatToHalf(line.scale);
  block.m = floatToHalf(line.min);
  float codes[kGroupColumns];
  assign(values, {halfToFloat(block.d), halfToFloat(block.m)}, codes);
  storeNibbles(codes, 16, block.codes);
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
  Line lines[8];
  float scale = 0, min = 0;
  for (int g = 0; g < 8; ++g) {
    lines[g] = chooseLine(values + g * kGroupColumns, true);
    scale = larger(scale, lines[g].scale);
    min = larger(min, -lines[g].min);
  }
  block.d = floatToHalf(scale / kFactors);
  block.dmin = floatToHalf(min / kFactors);
  const float d = halfToFloat(block.d), dmin = halfToFloat(block.dmin);
  uint8_t scales[8], mins[8];
  float codes[2][kGroupColumns];
  for (int g = 0; g < 8; ++g) {
    scales[g] = static_cast<uint8_t>(d > 0 ? nearest(lines[g].scale / d, kFactors) : 0);
    mins[g] = static_cast<uint8_t>(dmin > 0 ? nearest(-lines[g].min / dmin, kFactors) : 0);
    assign(values + g * kGroupColumns, {d * scales[g], -dmin * mins[g]}, codes[g % 2]);
    if (g % 2 == 1) storeNibbles(codes[0], kGroupColumns, block.codes + g / 2 * kGroupColumns);
  }
  storeFactors(scales, mins, block.scales);
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
