// Weights of Hugging Face directories that were quantised in groups of columns (GPTQ, AWQ, compressed-tensors), turned
// into blocks of block-formats.h as they are read: x = scale * (code - zero) for each group of a row.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "backend.h"
#include "file.h"

namespace pagoda {

/// How codes, scales and zero points lie in their files; O outputs (rows of the weight), I inputs (its columns), G
/// groups. Words are 32 bits little-endian and hold 32 / bits codes, the first in the lowest bits.
/// docs/quantized-models.md says where each layout is defined.
enum class CodeStorage {
  gptq,    // words [I / perWord, O], scales [G, O], zero words [G, O / perWord]
  awq,     // words [I, O / 8], eight outputs a word in the order 0 2 4 6 1 3 5 7; scales [G, O], zero words [G, O / 8]
  packed,  // words [O, I / perWord], scales [O, G], zero words [O / perWord, G]
  bytes,   // int8 [O, I], scales [O, G], zero points int8 [O, G]
};

/// What a part needs besides its place in the file, which is that of the codes.
struct GroupQuantized {
  CodeStorage storage;
  int32_t bits;       // 4 or 8
  int32_t groupSize;  // columns, a multiple of 32
  bool isSymmetric;   // all zero points are 2^(bits - 1), as the file's must say, too, where it has any
  /// The group of each column; empty: groupSize columns after another.
  std::vector<int32_t> columnGroups;
  int32_t tensorRows;
  int32_t firstRow;  // of the part within the tensor
  std::string scaleFile;
  uint64_t scaleOffset;
  PagodaDtype scaleDtype;
  bool isSingleScale;    // one scale for the whole tensor
  std::string zeroFile;  // empty: there are none
  uint64_t zeroOffset;
  int32_t zeroShift;  // 1: zero points are stored less one, which was taken from whole words
};

/// Reads rows as blocks of `dtype`: codes of four bits as Q4_1 or, symmetric, Q4_0, symmetric codes of eight bits as
/// Q8_0. Their scales are rounded to f16, minima -scale * zero, too. As F32 all codes can be read, each column with its
/// own group.
class GroupQuantizedRows {
 public:
  /// Reads scales and zero points. Throws PAGODA_INVALID; PAGODA_IO also for zero points that are not symmetric.
  GroupQuantizedRows(const GroupQuantized& source, const std::string& file, uint64_t offset, PagodaDtype dtype,
                     int32_t cols);

  /// Rows [row, row + rows) of the part. Throws PAGODA_IO.
  void read(int32_t row, int32_t rows, char* into);

 private:
  void check() const;
  void readScales();
  void readZeros();
  void unpackZeros(const std::vector<uint8_t>& stored);
  bool isTransposed() const { return source_.storage == CodeStorage::gptq || source_.storage == CodeStorage::awq; }
  void readTile(int64_t row, int64_t rows);
  void readCodes(int64_t row, int64_t col, uint8_t* codes) const;
  int64_t groupAt(int64_t row, int64_t group) const;
  float scaleAt(int64_t row, int64_t group) const;
  int32_t zeroAt(int64_t row, int64_t group) const;
  void writeBlock(const uint8_t* codes, float scale, int32_t zero, char* into) const;
  void writeNumbers(const uint8_t* codes, int64_t row, int64_t col, char* into) const;

  const GroupQuantized source_;
  const PagodaDtype dtype_;
  const int32_t cols_;
  const int32_t groups_;
  const int32_t perWord_;  // codes
  const File file_;
  const uint64_t offset_;
  std::vector<float> scales_;
  std::vector<uint8_t> zeros_;  // in the order of the scales; empty: all are 2^(bits - 1)
  // The codes of rows [tileRow_, tileRow_ + tileRows_), in the order of the file.
  std::vector<uint8_t> tile_;
  int64_t tileRow_ = 0;
  int64_t tileRows_ = 0;
};

}  // namespace pagoda
