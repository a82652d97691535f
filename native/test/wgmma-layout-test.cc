// Where operands and results of the tensor cores of sm_90a lie: the maps that CUDA kernels and their emulated twins
// share.
#include "../cuda/machine/wgmma-layout.h"

#include <set>
#include <vector>

#include "check.h"

namespace pagoda::test {
namespace {

using namespace cuda;

// Of the figures in the PTX manual: row and column of some elements of a [64, N] result.
static_assert(resultRow(0, 0) == 0 && resultColumn(0, 0) == 0);
static_assert(resultRow(0, 1) == 0 && resultColumn(0, 1) == 1);
static_assert(resultRow(0, 2) == 8 && resultColumn(0, 2) == 0);
static_assert(resultRow(0, 4) == 0 && resultColumn(0, 4) == 8);
static_assert(resultRow(5, 3) == 9 && resultColumn(5, 3) == 3);
static_assert(resultRow(127, 7) == 63 && resultColumn(127, 7) == 15);

static_assert(swizzle128(0) == 0 && swizzle128(127) == 127);
static_assert(swizzle128(128) == 128 + 16, "row 1 has its chunks in pairs, exchanged");
static_assert(swizzle128(7 * 128 + 7 * 16) == 7 * 128, "row 7 backwards");
static_assert(swizzle128(1024 + 16) == 1024 + 16, "after 8 rows again");

void testSwizzle() {
  section("the swizzle moves chunks within their row, and a column of 8 chunks to all banks");
  for (uint32_t row = 0; row < 16; ++row) {
    std::set<uint32_t> places;
    for (uint32_t byte = 0; byte < 128; ++byte) {
      const uint32_t place = swizzle128(128 * row + byte);
      CHECK(place / 128 == row && place % 16 == byte % 16, "row %u, byte %u is at %u", row, byte, place);
      CHECK(swizzle128(place) == 128 * row + byte, "%u does not lead back", place);
      places.insert(place);
    }
    CHECK(places.size() == 128, "row %u: %zu places", row, places.size());
  }
  for (uint32_t chunk = 0; chunk < 8; ++chunk) {
    std::set<uint32_t> banks;
    for (uint32_t row = 0; row < 8; ++row) banks.insert(swizzle128(128 * row + 16 * chunk) % 128 / 16);
    CHECK(banks.size() == 8, "chunk %u is in %zu groups of banks", chunk, banks.size());
  }
}

void testDescriptions() {
  section("a description says what it was made of, wherever in shared memory");
  for (const uint32_t address : {0u, 1024u, 37u * 1024, 226u * 1024}) {
    const uint64_t bits = describeMatrix(address);
    const MatrixDescription matrix = readDescription(bits);
    CHECK(matrix.address == address && matrix.strideBytes == 1024 && matrix.swizzle == 1 && matrix.baseOffset == 0,
          "%u: %u, %u, %u", address, matrix.address, matrix.strideBytes, matrix.swizzle);
    CHECK((bits >> 62) == 1 && (bits >> 32 & 0x3fff) == 64 && (bits & 0x3fff) == address >> 4, "bits %llx",
          static_cast<unsigned long long>(bits));
    for (const int column : {16, 32, 48})
      CHECK(readDescription(advance(bits, column)).address == address + 2 * column, "%d columns on", column);
  }
}

void testElements() {
  section("a step finds its elements where the copy engine has put them");
  const uint64_t bits = describeMatrix(4096);
  for (int step = 0; step < kTileColumns; step += kMatrixStep) {
    const MatrixDescription matrix = readDescription(advance(bits, step));
    for (int row = 0; row < 256; ++row) {
      for (int k = 0; k < kMatrixStep; ++k) {
        const uint32_t chunk = (step + k) / 8, expected = 4096 + 128 * row + 16 * (chunk ^ row % 8) + 2 * (k % 8);
        CHECK(elementAddress(matrix, row, k) == expected, "row %d, column %d", row, step + k);
      }
    }
  }
}

void testTransposed() {
  section("a step of a transposed operand finds what the copy engine has put into tiles of 64 columns");
  constexpr int kRows = 128;
  const uint64_t bits = describeTransposed(8192, kRows);
  const MatrixDescription whole = readDescription(bits);
  CHECK(whole.leadingBytes == 128 * kRows && whole.strideBytes == 1024 && whole.swizzle == 1 && whole.baseOffset == 0,
        "%u, %u, %u", whole.leadingBytes, whole.strideBytes, whole.swizzle);
  for (int step = 0; step < kRows; step += kMatrixStep) {
    const MatrixDescription matrix = readDescription(advanceRows(bits, step));
    for (int k = 0; k < kMatrixStep; ++k) {
      for (int column = 0; column < 256; ++column) {
        const int row = step + k, tile = column / 64, chunk = column % 64 / 8;
        const uint32_t expected = 8192 + 128 * (kRows * tile + row) + 16 * (chunk ^ row % 8) + 2 * (column % 8);
        CHECK(transposedAddress(matrix, k, column) == expected, "row %d, column %d", row, column);
      }
    }
  }
}

void testResults() {
  section("the threads of a warpgroup hold each element of a result once");
  for (const int columns : {8, 16, 64, 128, 256}) {
    std::vector<int> holders(kWarpgroupRows * columns);
    for (int thread = 0; thread < kWarpgroup; ++thread) {
      for (int i = 0; i < columns / 2; ++i) ++holders[resultRow(thread, i) * columns + resultColumn(thread, i)];
    }
    for (const int count : holders) CHECK(count == 1, "%d threads hold one", count);
  }
}

}  // namespace
}  // namespace pagoda::test

int main() {
  using namespace pagoda::test;
  testSwizzle();
  testDescriptions();
  testElements();
  testTransposed();
  testResults();
  return finish();
}
