#include "group-quantized.h"

#include <algorithm>
#include <cstring>

#include "block-formats.h"
#include "cpu/half.h"
#include "failure.h"

namespace pagoda {

namespace {

constexpr int32_t kBlock = 32;  // columns
// Codes that are held at a time where those of a row are not together in the file.
constexpr int64_t kTileBytes = 16 << 20;
constexpr int64_t kTileRows = 64;  // whole words of all storages

uint32_t wordAt(const uint8_t* words, int64_t index) {
  uint32_t word;
  std::memcpy(&word, words + 4 * index, sizeof word);
  return word;
}

/// Where a word of AWQ holds the output.
int32_t awqPosition(int64_t row) { return static_cast<int32_t>(row % 2 * 4 + row % 8 / 2); }

float scaleFrom(const uint8_t* from, PagodaDtype dtype) {
  uint32_t bits = 0;
  std::memcpy(&bits, from, dtype == PAGODA_F32 ? 4 : 2);
  if (dtype == PAGODA_F16) return halfToFloat(static_cast<uint16_t>(bits));
  if (dtype == PAGODA_BF16) bits <<= 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace

GroupQuantizedRows::GroupQuantizedRows(const GroupQuantized& source, const std::string& file, uint64_t offset,
                                       PagodaDtype dtype, int32_t cols)
    : source_(source),
      dtype_(dtype),
      cols_(cols),
      groups_(source.groupSize > 0 ? cols / source.groupSize : 0),
      perWord_(source.bits > 0 ? 32 / source.bits : 0),
      file_(file),
      offset_(offset) {
  check();
  readScales();
  if (!source_.zeroFile.empty()) readZeros();
}

void GroupQuantizedRows::check() const {
  const int32_t bits = source_.bits;
  const bool isWide = source_.storage == CodeStorage::bytes;
  require(bits == 4 || bits == 8, "Codes have 4 or 8 bits");
  require(isWide ? bits == 8 : source_.storage != CodeStorage::awq || bits == 4, "The storage has no such codes");
  require(groups_ > 0 && source_.groupSize % kBlock == 0 && cols_ % source_.groupSize == 0,
          "Groups are whole blocks, and rows whole groups");
  const bool isQ4 = bits == 4 && (dtype_ == PAGODA_Q4_1 || (dtype_ == PAGODA_Q4_0 && source_.isSymmetric));
  const bool isQ8 = bits == 8 && dtype_ == PAGODA_Q8_0 && source_.isSymmetric;
  require(dtype_ == PAGODA_F32 || (source_.columnGroups.empty() && (isQ4 || isQ8)),
          "The codes cannot become blocks of this dtype");
  const auto isGroup = [this](int32_t group) { return group >= 0 && group < groups_; };
  const bool hasGroups = source_.columnGroups.size() == static_cast<size_t>(cols_);
  require(source_.columnGroups.empty() || hasGroups, "Each column has a group");
  require(std::ranges::all_of(source_.columnGroups, isGroup), "The group of a column is out of range");
  require(source_.tensorRows >= 1 && source_.firstRow >= 0, "The rows of a tensor are out of range");
  require(source_.storage != CodeStorage::awq || source_.tensorRows % perWord_ == 0, "Outputs fill their words");
  require(source_.zeroFile.empty() || isWide || source_.tensorRows % perWord_ == 0, "Zero points fill their words");
  require(source_.isSymmetric || !source_.zeroFile.empty(), "Codes that are not symmetric need zero points");
  require(blockFormat(source_.scaleDtype).columns == 1 && blockFormat(source_.scaleDtype).bytes > 0,
          "Scales are plain numbers");
}

void GroupQuantizedRows::readScales() {
  const auto bytes = static_cast<uint64_t>(blockFormat(source_.scaleDtype).bytes);
  const uint64_t count = source_.isSingleScale ? 1 : static_cast<uint64_t>(source_.tensorRows) * groups_;
  std::vector<uint8_t> data(count * bytes);
  File(source_.scaleFile).read(source_.scaleOffset, data.data(), data.size());
  scales_.resize(count);
  for (uint64_t i = 0; i < count; ++i) scales_[i] = scaleFrom(data.data() + i * bytes, source_.scaleDtype);
}

void GroupQuantizedRows::readZeros() {
  const int64_t count = static_cast<int64_t>(source_.tensorRows) * groups_;
  std::vector<uint8_t> stored(count * source_.bits / 8);
  File(source_.zeroFile).read(source_.zeroOffset, stored.data(), stored.size());
  zeros_.resize(count);
  unpackZeros(stored);
  if (!source_.isSymmetric) return;
  // Whether one was taken from them is of no account: writers differ from what their files say.
  const int32_t middle = 1 << (source_.bits - 1), shift = source_.storage == CodeStorage::gptq ? 1 : 0;
  for (const int32_t zero : zeros_) {
    if (zero == middle || zero == middle - shift) continue;
    throw Failure(PAGODA_IO, "A zero point is stored as " + std::to_string(zero) +
                                 ", but the model's config says that its weights are quantised symmetrically");
  }
  zeros_.clear();
}

/// What the shift was taken from is the word as a number, so that zero points of 0 borrow from their neighbours.
void GroupQuantizedRows::unpackZeros(const std::vector<uint8_t>& stored) {
  if (source_.storage == CodeStorage::bytes) {
    for (size_t i = 0; i < zeros_.size(); ++i) zeros_[i] = stored[i] ^ 0x80;
    return;
  }
  const uint32_t mask = (1u << source_.bits) - 1;
  const uint32_t shift = source_.isSymmetric ? 0 : UINT32_MAX / mask * static_cast<uint32_t>(source_.zeroShift);
  const int64_t rows = source_.tensorRows;
  for (int64_t row = 0; row < rows; ++row) {
    const auto inWord = static_cast<int32_t>(row % perWord_);
    const int32_t position = source_.storage == CodeStorage::awq ? awqPosition(row) : inWord;
    for (int64_t group = 0; group < groups_; ++group) {
      const int64_t word = row / perWord_;
      const int64_t at = isTransposed() ? group * (rows / perWord_) + word : word * groups_ + group;
      zeros_[groupAt(row, group)] = (wordAt(stored.data(), at) + shift) >> (position * source_.bits) & mask;
    }
  }
}

void GroupQuantizedRows::read(int32_t row, int32_t rows, char* into) {
  const int64_t begin = static_cast<int64_t>(source_.firstRow) + row, end = begin + rows;
  require(end <= source_.tensorRows, "The part's rows lie outside its tensor");
  const int64_t rowLength = rowBytes(dtype_, cols_), blockLength = rowBytes(dtype_, kBlock);
  for (int64_t first = begin; first < end; first = std::min(end, tileRow_ + tileRows_)) {
    if (first < tileRow_ || first >= tileRow_ + tileRows_) readTile(first, end - first);
    const int64_t last = std::min(end, tileRow_ + tileRows_);
    for (int64_t col = 0; col < cols_; col += kBlock) {
      const int64_t group = col / source_.groupSize;
      char* to = into + (first - begin) * rowLength + col / kBlock * blockLength;
      for (int64_t r = first; r < last; ++r, to += rowLength) {
        uint8_t codes[kBlock];
        readCodes(r, col, codes);
        if (dtype_ == PAGODA_F32) {
          writeNumbers(codes, r, col, to);
        } else {
          writeBlock(codes, scaleAt(r, group), zeroAt(r, group), to);
        }
      }
    }
  }
}

/// Where the codes of a row lie together, as many rows as are asked for; else as many as the tile may hold.
void GroupQuantizedRows::readTile(int64_t row, int64_t rows) {
  const int64_t rowLength = static_cast<int64_t>(cols_) * source_.bits / 8;
  if (!isTransposed()) {
    tileRow_ = row;
    tileRows_ = rows;
    tile_.resize(rows * rowLength);
    return file_.read(offset_ + row * rowLength, tile_.data(), tile_.size());
  }
  tileRow_ = row / kTileRows * kTileRows;
  tileRows_ = std::max(kTileBytes / rowLength / kTileRows, int64_t{1}) * kTileRows;
  tileRows_ = std::min<int64_t>(tileRows_, source_.tensorRows - tileRow_);
  tile_.resize(tileRows_ * rowLength);
  const int64_t outputs = source_.storage == CodeStorage::awq ? perWord_ : 1;  // of a word
  const int64_t lines = source_.storage == CodeStorage::awq ? cols_ : cols_ / perWord_;
  const int64_t words = tileRows_ / outputs;  // of a line in the tile
  const int64_t fileWords = source_.tensorRows / outputs;
  if (words == fileWords) return file_.read(offset_, tile_.data(), tile_.size());
  for (int64_t line = 0; line < lines; ++line) {
    const int64_t at = line * fileWords + tileRow_ / outputs;
    file_.read(offset_ + 4 * at, tile_.data() + 4 * line * words, 4 * words);
  }
}

/// The codes of 32 columns from `col` on, from 0 to 2^bits - 1.
void GroupQuantizedRows::readCodes(int64_t row, int64_t col, uint8_t* codes) const {
  const int64_t tileRow = row - tileRow_;
  const uint32_t mask = (1u << source_.bits) - 1;
  if (source_.storage == CodeStorage::bytes) {
    for (int32_t i = 0; i < kBlock; ++i) codes[i] = tile_[tileRow * cols_ + col + i] ^ 0x80;
    return;
  }
  if (source_.storage == CodeStorage::awq) {
    const int64_t words = tileRows_ / perWord_;
    const int32_t shift = 4 * awqPosition(row);
    for (int32_t i = 0; i < kBlock; ++i) {
      codes[i] = static_cast<uint8_t>(wordAt(tile_.data(), (col + i) * words + tileRow / perWord_) >> shift & mask);
    }
    return;
  }
  const bool isGptq = source_.storage == CodeStorage::gptq;
  for (int32_t i = 0; i < kBlock; i += perWord_) {
    const int64_t line = (col + i) / perWord_;
    const int64_t at = isGptq ? line * tileRows_ + tileRow : tileRow * (cols_ / perWord_) + line;
    uint32_t word = wordAt(tile_.data(), at);
    for (int32_t k = 0; k < perWord_; ++k, word >>= source_.bits) codes[i + k] = static_cast<uint8_t>(word & mask);
  }
}

/// Where a row and a group have their scale.
int64_t GroupQuantizedRows::groupAt(int64_t row, int64_t group) const {
  return isTransposed() ? group * source_.tensorRows + row : row * groups_ + group;
}

float GroupQuantizedRows::scaleAt(int64_t row, int64_t group) const {
  return scales_[source_.isSingleScale ? 0 : groupAt(row, group)];
}

int32_t GroupQuantizedRows::zeroAt(int64_t row, int64_t group) const {
  return zeros_.empty() ? 1 << (source_.bits - 1) : zeros_[groupAt(row, group)];
}

void GroupQuantizedRows::writeBlock(const uint8_t* codes, float scale, int32_t zero, char* into) const {
  const uint16_t d = floatToHalf(scale);
  std::memcpy(into, &d, sizeof d);
  into += sizeof d;
  if (dtype_ == PAGODA_Q8_0) {
    for (int32_t i = 0; i < kBlock; ++i) into[i] = static_cast<char>(codes[i] ^ 0x80);
    return;
  }
  if (dtype_ == PAGODA_Q4_1) {
    const uint16_t m = floatToHalf(-scale * static_cast<float>(zero));
    std::memcpy(into, &m, sizeof m);
    into += sizeof m;
  }
  for (int32_t i = 0; i < kBlock / 2; ++i) into[i] = static_cast<char>(codes[i] | codes[i + kBlock / 2] << 4);
}

/// 32 columns from `col` on.
void GroupQuantizedRows::writeNumbers(const uint8_t* codes, int64_t row, int64_t col, char* into) const {
  float numbers[kBlock];
  for (int32_t i = 0; i < kBlock; ++i) {
    const int64_t group = source_.columnGroups.empty() ? col / source_.groupSize : source_.columnGroups[col + i];
    numbers[i] = scaleAt(row, group) * static_cast<float>(codes[i] - zeroAt(row, group));
  }
  std::memcpy(into, numbers, sizeof numbers);
}

}  // namespace pagoda
