// Codes of GPTQ, AWQ and compressed-tensors as blocks and numbers: every storage, in more than one tile, from any row
// on.
#include "../group-quantized.h"

#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>

#include "../block-formats.h"
#include "../cpu/half.h"
#include "../failure.h"
#include "check.h"

namespace pagoda::test {
namespace {

constexpr int64_t kRows = 33000;  // not a multiple of a tile's; 16.9 MB of codes of 4 bits
constexpr int64_t kCols = 1024;
constexpr int64_t kGroup = 128;
constexpr int64_t kGroups = kCols / kGroup;
const char* const kFile = "group-quantized-test.tmp";

uint32_t hash(uint64_t x) { return static_cast<uint32_t>((x * 0x9e3779b97f4a7c15u) >> 29); }

struct Layout {
  const char* name;
  GroupQuantized source;
  PagodaDtype dtype;
  /// Index and shift of a code and of a zero point.
  std::function<int64_t(int64_t row, int64_t col)> word;
  std::function<int32_t(int64_t row, int64_t col)> shift;
  std::function<int64_t(int64_t row, int64_t group)> zeroWord = {};
};

int32_t awqShift(int64_t row) {
  constexpr int32_t kOutputs[] = {0, 2, 4, 6, 1, 3, 5, 7};
  int32_t nibble = 0;
  while (kOutputs[nibble] != row % 8) ++nibble;
  return 4 * nibble;
}

GroupQuantized sourceOf(CodeStorage storage, int32_t bits) {
  GroupQuantized source = {};
  source.storage = storage;
  source.bits = bits;
  source.groupSize = kGroup;
  source.tensorRows = kRows;
  source.scaleFile = kFile;
  source.scaleDtype = PAGODA_F16;
  source.zeroFile = kFile;
  return source;
}

std::vector<Layout> layouts() {
  std::vector<Layout> all = {
      {"gptq", sourceOf(CodeStorage::gptq, 4), PAGODA_Q4_1,
       [](int64_t row, int64_t col) { return col / 8 * kRows + row; },
       [](int64_t, int64_t col) { return static_cast<int32_t>(col % 8 * 4); },
       [](int64_t row, int64_t group) { return group * kRows / 8 + row / 8; }},
      {"awq", sourceOf(CodeStorage::awq, 4), PAGODA_Q4_1,
       [](int64_t row, int64_t col) { return col * kRows / 8 + row / 8; },
       [](int64_t row, int64_t) { return awqShift(row); },
       [](int64_t row, int64_t group) { return group * kRows / 8 + row / 8; }},
      {"packed", sourceOf(CodeStorage::packed, 4), PAGODA_Q4_1,
       [](int64_t row, int64_t col) { return row * kCols / 8 + col / 8; },
       [](int64_t, int64_t col) { return static_cast<int32_t>(col % 8 * 4); },
       [](int64_t row, int64_t group) { return row / 8 * kGroups + group; }},
      {"gptq, 8 bits", sourceOf(CodeStorage::gptq, 8), PAGODA_Q8_0,
       [](int64_t row, int64_t col) { return col / 4 * kRows + row; },
       [](int64_t, int64_t col) { return static_cast<int32_t>(col % 4 * 8); }},
  };
  all[0].source.zeroShift = 1;
  all[3].source.zeroFile.clear();
  all[3].source.isSymmetric = true;
  Layout ordered = all[0];
  ordered.name = "gptq, columns in another order";
  ordered.dtype = PAGODA_F32;
  for (int64_t col = 0; col < kCols; ++col) ordered.source.columnGroups.push_back(hash(col) % kGroups);
  all.push_back(ordered);
  Layout wide = all[3];
  wide.name = "gptq, 8 bits with zero points";
  wide.dtype = PAGODA_F32;
  wide.source.zeroFile = kFile;
  wide.source.zeroShift = 1;
  wide.source.isSymmetric = false;
  wide.zeroWord = [](int64_t row, int64_t group) { return group * kRows / 4 + row / 4; };
  all.push_back(wide);
  return all;
}

struct File {
  std::vector<uint32_t> words;
  uint64_t scales;  // offset
  uint64_t zeros;
};

/// Codes, then scales (small halves), then zero points.
File writeFile(const Layout& layout) {
  const size_t codes = kRows * kCols * layout.source.bits / 32, scales = kRows * kGroups / 2;
  const size_t zeros = kRows * kGroups * layout.source.bits / 32;
  File file{std::vector<uint32_t>(codes + scales + zeros), 4 * codes, 4 * (codes + scales)};
  for (size_t i = 0; i < file.words.size(); ++i) file.words[i] = hash(i);
  for (size_t i = codes; i < codes + scales; ++i) file.words[i] = (file.words[i] & 0x1fff1fffu) | 0x10001000u;
  std::ofstream(kFile, std::ios::binary).write(reinterpret_cast<const char*>(file.words.data()), file.words.size() * 4);
  return file;
}

/// One number by the definitions of group-quantized.h.
float expectedAt(const Layout& layout, const File& file, int64_t row, int64_t col) {
  const int32_t bits = layout.source.bits, mask = (1 << bits) - 1;
  const std::vector<int32_t>& groups = layout.source.columnGroups;
  const int64_t group = groups.empty() ? col / kGroup : groups[col];
  const bool isTransposed = layout.source.storage != CodeStorage::packed;
  const int64_t at = isTransposed ? group * kRows + row : row * kGroups + group;
  uint16_t half;
  std::memcpy(&half, reinterpret_cast<const char*>(file.words.data()) + file.scales + 2 * at, sizeof half);
  const float scale = halfToFloat(half);
  const auto code = static_cast<int32_t>(file.words[layout.word(row, col)] >> layout.shift(row, col)) & mask;
  if (!layout.zeroWord) return scale * static_cast<float>(code - 128);
  // One is taken from all zero points of a word at once, whatever they borrow from each other.
  const uint32_t ones = bits == 4 ? 0x11111111u : 0x01010101u;
  const uint32_t zeroWord = file.words[file.zeros / 4 + layout.zeroWord(row, group)] + layout.source.zeroShift * ones;
  const int64_t perWord = 32 / bits;
  const bool isAwq = layout.source.storage == CodeStorage::awq;
  const int32_t zero = static_cast<int32_t>(zeroWord >> (isAwq ? awqShift(row) : row % perWord * bits)) & mask;
  if (layout.dtype == PAGODA_F32) return scale * static_cast<float>(code - zero);
  return scale * static_cast<float>(code) + halfToFloat(floatToHalf(-scale * static_cast<float>(zero)));
}

float actualAt(const Layout& layout, const char* row, int64_t col) {
  if (layout.dtype == PAGODA_F32) {
    float number;
    std::memcpy(&number, row + 4 * col, sizeof number);
    return number;
  }
  const char* block = row + col / 32 * blockFormat(layout.dtype).bytes;
  const auto i = static_cast<int32_t>(col % 32);
  if (layout.dtype == PAGODA_Q8_0) {
    BlockQ8_0 q;
    std::memcpy(&q, block, sizeof q);
    return halfToFloat(q.d) * static_cast<float>(q.codes[i]);
  }
  BlockQ4_1 q;
  std::memcpy(&q, block, sizeof q);
  const int32_t code = i < 16 ? q.codes[i] & 15 : q.codes[i - 16] >> 4;
  return halfToFloat(q.d) * static_cast<float>(code) + halfToFloat(q.m);
}

void testLayout(Layout layout) {
  section(layout.name);
  const File file = writeFile(layout);
  layout.source.scaleOffset = file.scales;
  layout.source.zeroOffset = file.zeros;
  const int64_t rowLength = rowBytes(layout.dtype, kCols);
  for (const int64_t firstRow : {int64_t{0}, int64_t{7}}) {
    layout.source.firstRow = static_cast<int32_t>(firstRow);
    GroupQuantizedRows rows(layout.source, kFile, 0, layout.dtype, kCols);
    constexpr int64_t kChunk = 1000;
    std::vector<char> chunk(kChunk * rowLength);
    for (int64_t row = 0; row < kRows - firstRow; row += kChunk) {
      const int64_t count = std::min(kChunk, kRows - firstRow - row);
      rows.read(static_cast<int32_t>(row), static_cast<int32_t>(count), chunk.data());
      for (int64_t i = 0; i < count; i += 13) {
        const int64_t col = hash(row + i) % kCols;
        const float actual = actualAt(layout, chunk.data() + i * rowLength, col);
        const float expected = expectedAt(layout, file, firstRow + row + i, col);
        CHECK(actual == expected, "row %ld, column %ld: %g instead of %g", static_cast<long>(firstRow + row + i),
              static_cast<long>(col), static_cast<double>(actual), static_cast<double>(expected));
      }
    }
  }
  std::remove(kFile);
}

PagodaStatus statusOf(const std::function<void(GroupQuantized&)>& change, PagodaDtype dtype, int32_t cols) {
  GroupQuantized source = sourceOf(CodeStorage::packed, 4);
  source.tensorRows = 8;
  source.zeroFile.clear();
  source.isSymmetric = true;
  change(source);
  std::vector<char> row(8 * kCols);
  try {
    GroupQuantizedRows(source, kFile, 0, dtype, cols).read(0, 1, row.data());
  } catch (const Failure& failure) {
    return failure.status();
  }
  return PAGODA_OK;
}

void testRefusals() {
  section("what does not fit is refused");
  const std::vector<char> zeros(8 * kCols);
  std::ofstream(kFile, std::ios::binary).write(zeros.data(), static_cast<std::streamsize>(zeros.size()));
  CHECK(statusOf([](GroupQuantized&) {}, PAGODA_Q4_0, kCols) == PAGODA_OK);
  CHECK(statusOf([](GroupQuantized&) {}, PAGODA_Q8_0, kCols) == PAGODA_INVALID);
  CHECK(statusOf([](GroupQuantized&) {}, PAGODA_Q4_0, kCols + 32) == PAGODA_INVALID);
  const std::vector<std::function<void(GroupQuantized&)>> changes = {
      [](GroupQuantized& s) { s.bits = 0; },
      [](GroupQuantized& s) { s.bits = 3; },
      [](GroupQuantized& s) { s.bits = 8; },
      [](GroupQuantized& s) { s.groupSize = 0; },
      [](GroupQuantized& s) { s.groupSize = 48; },
      [](GroupQuantized& s) { s.groupSize = -32; },
      [](GroupQuantized& s) { s.tensorRows = 0; },
      [](GroupQuantized& s) { s.firstRow = -1; },
      [](GroupQuantized& s) { s.firstRow = 8; },
      [](GroupQuantized& s) { s.scaleDtype = PAGODA_Q4_0; },
      [](GroupQuantized& s) { s.storage = CodeStorage::bytes; },
      [](GroupQuantized& s) { s.isSymmetric = false; },
      [](GroupQuantized& s) { s.columnGroups.assign(kCols, 0); },
      [](GroupQuantized& s) {
        s.zeroFile = kFile;
        s.tensorRows = 9;
      },
  };
  for (size_t i = 0; i < changes.size(); ++i)
    CHECK(statusOf(changes[i], PAGODA_Q4_0, kCols) == PAGODA_INVALID, "change %zu", i);
  const auto beyond = [](GroupQuantized& s) { s.scaleOffset = 8 * kCols; };
  CHECK(statusOf(beyond, PAGODA_Q4_0, kCols) == PAGODA_IO, "scales beyond the end of the file");
  const auto zeroPoints = [](GroupQuantized& s) { s.zeroFile = kFile; };
  CHECK(statusOf(zeroPoints, PAGODA_Q4_0, kCols) == PAGODA_IO, "zero points that are not symmetric");
  const auto asymmetric = [](GroupQuantized& s) {
    s.zeroFile = kFile;
    s.isSymmetric = false;
  };
  CHECK(statusOf(asymmetric, PAGODA_Q4_0, kCols) == PAGODA_INVALID);
  CHECK(statusOf(asymmetric, PAGODA_Q4_1, kCols) == PAGODA_OK);
  for (const std::vector<int32_t>& groups :
       {std::vector<int32_t>(kCols - 1), std::vector<int32_t>(kCols, -1), std::vector<int32_t>(kCols, kGroups)}) {
    const auto outside = [&](GroupQuantized& s) { s.columnGroups = groups; };
    CHECK(statusOf(outside, PAGODA_F32, kCols) == PAGODA_INVALID, "groups that there are not");
  }
  std::remove(kFile);
}

}  // namespace
}  // namespace pagoda::test

int main() {
  using namespace pagoda::test;
  for (const Layout& layout : layouts()) testLayout(layout);
  testRefusals();
  return finish();
}
