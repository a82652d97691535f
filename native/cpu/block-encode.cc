// Rounds floats to blocks, for checkpoints that are quantised as they are loaded.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "block-codec.h"
#include "half.h"

namespace pagoda {
namespace {

constexpr uint16_t kHalfNaN = 0x7e00;
constexpr int kGroup = 32;
constexpr int kLevels = 15;  // the largest code of four bits

bool allFinite(const float* values, int count) {
  float product = 0;
  for (int i = 0; i < count; ++i) product += values[i] * 0.0f;
  return product == 0;
}

// The integer in [0, limit] nearest to x, ties to even; 0 for NaN.
int nearest(float x, int limit) {
  const float inside = x > 0 ? std::min(x, static_cast<float>(limit)) : 0.0f;
  return static_cast<int>(std::nearbyintf(inside));
}

// The largest absolute value becomes code 127 or -127; each value the code nearest to it.
void encode(const float* values, BlockQ8_0& block) {
  float largest = 0;
  for (int i = 0; i < kGroup; ++i) largest = std::max(largest, std::fabs(values[i]));
  block.d = floatToHalf(largest / 127);
  const float d = halfToFloat(block.d);
  for (int i = 0; i < kGroup; ++i) {
    const int size = d > 0 ? nearest(std::fabs(values[i]) / d, 127) : 0;
    block.codes[i] = static_cast<int8_t>(values[i] < 0 ? -size : size);
  }
}

// A line min + scale * code through 32 values.
struct Line {
  float scale;
  float min;
};

// Writes the nearest codes and returns the sum of the squared errors.
float assign(const float* values, Line line, uint8_t* codes) {
  const float inverse = line.scale > 0 ? 1 / line.scale : 0;
  float error = 0;
  for (int i = 0; i < kGroup; ++i) {
    codes[i] = static_cast<uint8_t>(nearest((values[i] - line.min) * inverse, kLevels));
    const float difference = line.min + line.scale * static_cast<float>(codes[i]) - values[i];
    error += difference * difference;
  }
  return error;
}

// The line of least squared error for these codes; with `atMostZero`, of those whose min is not positive.
Line fit(const float* values, const uint8_t* codes, bool atMostZero, Line otherwise) {
  float x = 0, xx = 0, y = 0, xy = 0;
  for (int i = 0; i < kGroup; ++i) {
    const float code = codes[i];
    x += code;
    xx += code * code;
    y += values[i];
    xy += code * values[i];
  }
  const float determinant = kGroup * xx - x * x;
  if (determinant <= 0) return otherwise;
  Line line = {(kGroup * xy - x * y) / determinant, (xx * y - x * xy) / determinant};
  if (atMostZero && line.min > 0) line = {xy / xx, 0};
  return line.scale > 0 ? line : otherwise;
}

// Tries ranges from that of the values to 0.7 of it: fewer levels for outliers are finer steps for all others.
Line chooseLine(const float* values, bool atMostZero) {
  constexpr int kRanges = 6;
  float low = *std::min_element(values, values + kGroup);
  const float high = *std::max_element(values, values + kGroup);
  if (atMostZero) low = std::min(low, 0.0f);
  Line best = {(high - low) / kLevels, low};
  uint8_t codes[kGroup];
  float least = assign(values, best, codes);
  for (int range = 0; range < kRanges; ++range) {
    const float cut = (high - low) * 0.03f * static_cast<float>(range);
    const Line narrow = {(high - low - 2 * cut) / kLevels, low == 0 ? 0 : low + cut};
    assign(values, narrow, codes);
    const Line line = fit(values, codes, atMostZero, narrow);
    const float error = assign(values, line, codes);
    if (error < least) {
      least = error;
      best = line;
    }
  }
  return best;
}

void encode(const float* values, BlockQ4_1& block) {
  const Line line = chooseLine(values, false);
  block.d = floatToHalf(line.scale);
  block.m = floatToHalf(line.min);
  uint8_t codes[kGroup];
  assign(values, {halfToFloat(block.d), halfToFloat(block.m)}, codes);
  for (int i = 0; i < 16; ++i) block.codes[i] = static_cast<uint8_t>(codes[i] | codes[i + 16] << 4);
}

// As BlockQ4_K describes.
void storeScales(const uint8_t (&scales)[8], const uint8_t (&mins)[8], uint8_t (&packed)[12]) {
  for (int g = 0; g < 4; ++g) {
    packed[g] = static_cast<uint8_t>(scales[g] | scales[g + 4] >> 4 << 6);
    packed[g + 4] = static_cast<uint8_t>(mins[g] | mins[g + 4] >> 4 << 6);
    packed[g + 8] = static_cast<uint8_t>((scales[g + 4] & 15) | mins[g + 4] << 4);
  }
}

// The lines of the groups, then their factors rounded to six bits, then the codes for what became of the lines.
void encode(const float* values, BlockQ4_K& block) {
  constexpr int kFactors = 63;
  Line lines[8];
  float scale = 0, min = 0;
  for (int g = 0; g < 8; ++g) {
    lines[g] = chooseLine(values + g * kGroup, true);
    scale = std::max(scale, lines[g].scale);
    min = std::max(min, -lines[g].min);
  }
  block.d = floatToHalf(scale / kFactors);
  block.dmin = floatToHalf(min / kFactors);
  const float d = halfToFloat(block.d), dmin = halfToFloat(block.dmin);
  uint8_t scales[8], mins[8], codes[256];
  for (int g = 0; g < 8; ++g) {
    scales[g] = static_cast<uint8_t>(d > 0 ? nearest(lines[g].scale / d, kFactors) : 0);
    mins[g] = static_cast<uint8_t>(dmin > 0 ? nearest(-lines[g].min / dmin, kFactors) : 0);
    assign(values + g * kGroup, {d * scales[g], -dmin * mins[g]}, codes + g * kGroup);
  }
  storeScales(scales, mins, block.scales);
  for (int i = 0; i < 128; ++i) {
    const uint8_t* first = codes + i / 32 * 64 + i % 32;
    block.codes[i] = static_cast<uint8_t>(first[0] | first[kGroup] << 4);
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
  std::memcpy(to, &block, sizeof block);
}

}  // namespace

bool canQuantize(PagodaDtype dtype) { return dtype == PAGODA_Q8_0 || dtype == PAGODA_Q4_1 || dtype == PAGODA_Q4_K; }

void quantizeBlock(PagodaDtype dtype, const float* values, void* block) {
  if (dtype == PAGODA_Q8_0) encodeAs<BlockQ8_0>(values, 32, block);
  if (dtype == PAGODA_Q4_1) encodeAs<BlockQ4_1>(values, 32, block);
  if (dtype == PAGODA_Q4_K) encodeAs<BlockQ4_K>(values, 256, block);
}

}  // namespace pagoda
