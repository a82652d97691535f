// Where the tensor cores of sm_90a look for operands in shared memory, and where their results lie in registers. Plain
// C++: the kernels, their emulated twins and the tests read the same lines. PTX ISA 8: "Asynchronous warpgroup level
// matrix instructions".
//
// An operand is cut into tiles [rows][64] of bf16, so rows of 128 bytes, at addresses that are multiples of 1024. TMA
// stores the 16-byte chunk c of row r as chunk c ^ (r % 8).
#pragma once

#include <cstdint>

namespace pagoda::cuda {

constexpr int kTileColumns = 64;  // bf16 elements of a 128-byte row
constexpr int kTileRowBytes = 128;
constexpr int kWarpgroup = 128;           // threads
constexpr int kWarpgroupRows = 64;        // of a product
constexpr int kMatrixStep = 16;           // columns that one instruction multiplies
constexpr uint32_t kSwizzleBytes = 1024;  // 8 rows, after which the pattern repeats

/// The place of what would lie at `address` of shared memory without a swizzle of 128 bytes.
constexpr uint32_t swizzle128(uint32_t address) { return address ^ ((address >> 7 & 7) << 4); }

/// Describes a K-major operand from `address` on: bits 0 to 13 are its address, 32 to 45 the bytes from 8 rows to the
/// next 8, both in units of 16 bytes, 62 and 63 the swizzle, 1 being that of 128 bytes. Bits 16 to 29, the leading
/// offset, mean nothing to it.
constexpr uint64_t describeMatrix(uint32_t address) {
  return (address & 0x3ffff) >> 4 | uint64_t{1} << 16 | uint64_t{kSwizzleBytes >> 4} << 32 | uint64_t{1} << 62;
}

/// The same operand `columns` bf16 elements further on within its rows of 128 bytes.
constexpr uint64_t advance(uint64_t description, int columns) { return description + columns * 2 / 16; }

/// Describes an operand that lies with its columns along the k of the product, [k][columns] in tiles of 64 columns,
/// each of `rows` rows: bits 16 to 29 are the bytes from one tile to the next, 32 to 45 those from 8 rows to the
/// next 8.
constexpr uint64_t describeTransposed(uint32_t address, int rows) {
  return (address & 0x3ffff) >> 4 | static_cast<uint64_t>(rows * kTileRowBytes >> 4) << 16 |
         uint64_t{kSwizzleBytes >> 4} << 32 | uint64_t{1} << 62;
}

/// The same operand `rows` rows further on, a multiple of 8.
constexpr uint64_t advanceRows(uint64_t description, int rows) { return description + rows * kTileRowBytes / 16; }

/// What a description says, as the hardware reads it.
struct MatrixDescription {
  uint32_t address;
  uint32_t leadingBytes;
  uint32_t strideBytes;
  uint32_t baseOffset;
  uint32_t swizzle;
};

constexpr MatrixDescription readDescription(uint64_t bits) {
  return {static_cast<uint32_t>(bits & 0x3fff) << 4, static_cast<uint32_t>(bits >> 16 & 0x3fff) << 4,
          static_cast<uint32_t>(bits >> 32 & 0x3fff) << 4, static_cast<uint32_t>(bits >> 49 & 7),
          static_cast<uint32_t>(bits >> 62)};
}

/// Address of an element of a K-major operand.
constexpr uint32_t elementAddress(const MatrixDescription& matrix, int row, int column) {
  return swizzle128(matrix.address + row / 8 * matrix.strideBytes + row % 8 * kTileRowBytes + 2 * column);
}

/// Address of an element of a transposed operand: of row `row` of what lies in memory, which is k.
constexpr uint32_t transposedAddress(const MatrixDescription& matrix, int row, int column) {
  return swizzle128(matrix.address + column / kTileColumns * matrix.leadingBytes + row / 8 * matrix.strideBytes +
                    row % 8 * kTileRowBytes + 2 * (column % kTileColumns));
}

/// Row and column of element i of what thread `thread` of a warpgroup holds of a [64, N] result.
constexpr int resultRow(int thread, int i) { return 16 * (thread / 32) + thread % 32 / 4 + 8 * (i / 2 % 2); }
constexpr int resultColumn(int thread, int i) { return 8 * (i / 4) + 2 * (thread % 4) + i % 2; }

}  // namespace pagoda::cuda
