#include "loader.h"

#include <algorithm>
#include <deque>
#include <functional>
#include <map>

#include "block-formats.h"
#include "failure.h"
#include "file.h"
#include "read-ahead.h"

namespace pagoda {

namespace {

// Long enough to occupy the workers, short enough that what was read is still in the cache when it is packed.
constexpr uint64_t kChunkBytes = 1u << 20;
// Whole panels of all instruction sets, so that none is packed in two goes...
constexpr int32_t kChunkRows = 64;
// ...unless that many rows have more bytes than this.
constexpr uint64_t kMostChunkBytes = 8u << 20;
constexpr uint64_t kMaxStride = 1u << 24;  // elements

bool isTransposed(const WeightPart& part) { return part.strides && isQuantized(part.dtype); }

void checkPart(const PagodaWeight& weight, const WeightPart& part) {
  require(part.rowStart >= 0 && part.rows >= 1 && part.rowStart <= weight.rows - part.rows,
          "A part's rows lie outside its weight");
  require(part.offset <= INT64_MAX, "A part's offset is out of range");
  const uint64_t rowLength = isTransposed(part) ? part.strides->col : weight.cols;
  require(rowLength % blockFormat(part.dtype).columns == 0, "A part's rows do not consist of whole blocks");
  require(!part.mxfp4 || (part.dtype == PAGODA_MXFP4 && !part.strides && !part.quantized),
          "A part with exponents apart is not MXFP4");
  if (!part.strides) return;
  require(!part.quantized, "A part with strides is quantised in groups");
  require(part.strides->row <= kMaxStride && part.strides->col <= kMaxStride, "A part's stride is out of range");
  if (!isQuantized(part.dtype)) return;
  require(part.strides->row == 1 && static_cast<uint64_t>(part.rows) <= rowLength,
          "A quantised part is not transposed");
}

int32_t chunkRows(const WeightPart& part, uint64_t rowBytes) {
  if (part.rows <= kChunkRows) return part.rows;
  const auto rows = static_cast<int32_t>(std::clamp<uint64_t>(kChunkBytes / rowBytes, 1, INT32_MAX));
  if (kChunkRows * rowBytes > kMostChunkBytes) return std::min(part.rows, rows);
  return std::min(part.rows, std::max(rows / kChunkRows, 1) * kChunkRows);
}

/// What is read and packed at a time: rows of one weight.
struct Chunk {
  int32_t weight;  // index in the plan
  PagodaDtype dtype;
  int32_t row;  // first, within the weight
  int32_t rows;
  uint64_t bytes;
  std::function<void(char* into)> read;  // on the reading thread
};

/// The chunks of weights, in order.
class Chunks {
 public:
  explicit Chunks(const Runner& runner) : runner_(runner) {}

  void add(const WeightSource& source) {
    const PagodaWeight& weight = runner_.weight(source.index);
    require(!source.parts.empty(), "A weight needs at least one part");
    if (weight.kind == PAGODA_VECTOR) return addVector(source, weight);
    int64_t rows = 0;
    for (const WeightPart& part : source.parts) rows += part.rows;
    require(rows == weight.rows, "The parts do not fill the weight");
    for (const WeightPart& part : source.parts) addRows(source.index, weight, part);
  }

  const std::vector<Chunk>& all() const { return chunks_; }
  uint64_t largest() const { return largest_; }  // bytes

 private:
  using ReadRows = std::function<void(int32_t row, int32_t rows, char* into)>;

  void push(Chunk chunk) {
    largest_ = std::max(largest_, chunk.bytes);
    chunks_.push_back(std::move(chunk));
  }

  /// A vector is one row for the backend, but may be joined from parts, so it is one chunk.
  void addVector(const WeightSource& source, const PagodaWeight& weight) {
    const PagodaDtype dtype = source.parts[0].dtype;
    require(!isQuantized(dtype), "A vector cannot be quantised");
    const uint64_t elementBytes = blockFormat(dtype).bytes;
    std::vector<std::function<void(char*)>> reads;
    uint64_t filled = 0;  // elements
    for (const WeightPart& part : source.parts) {
      require(part.dtype == dtype && !part.quantized && part.rows >= 1 && part.offset <= INT64_MAX &&
                  static_cast<uint64_t>(part.rows) <= weight.cols - filled,
              "The parts of a vector do not fit it");
      reads.push_back([read = elementsOf(part), at = filled * elementBytes](char* into) { read(into + at); });
      filled += part.rows;
    }
    require(filled == static_cast<uint64_t>(weight.cols), "The parts do not fill the vector");
    push({source.index, dtype, 0, 1, filled * elementBytes, [reads = std::move(reads)](char* into) {
            for (const auto& read : reads) read(into);
          }});
  }

  /// Of a part of a vector, whose rows are its elements.
  std::function<void(char*)> elementsOf(const WeightPart& part) {
    const uint64_t elementBytes = blockFormat(part.dtype).bytes;
    const File& file = open(part.file);
    if (part.strides) {
      require(part.strides->row <= kMaxStride, "A part's stride is out of range");
      const StridedMatrix row = {part.offset, {0, part.strides->row}, elementBytes, part.rows};
      return [&file, row](char* into) { readStrided(file, row, 0, 1, into); };
    }
    const uint64_t bytes = part.rows * elementBytes;
    return [&file, offset = part.offset, bytes](char* into) { file.read(offset, into, bytes); };
  }

  void addRows(int32_t index, const PagodaWeight& weight, const WeightPart& part) {
    checkPart(weight, part);
    const PagodaDtype dtype = isTransposed(part) ? PAGODA_F32 : part.dtype;
    const auto rowLength = static_cast<uint64_t>(rowBytes(dtype, weight.cols));
    const ReadRows read = readerOf(weight, part, rowLength);
    const int32_t step = chunkRows(part, rowLength);
    for (int32_t row = 0; row < part.rows; row += std::min(step, part.rows - row)) {
      const int32_t rows = std::min(step, part.rows - row);
      push({index, dtype, part.rowStart + row, rows, rows * rowLength,
            [read, row, rows](char* into) { read(row, rows, into); }});
    }
  }

  ReadRows readerOf(const PagodaWeight& weight, const WeightPart& part, uint64_t rowLength) {
    if (part.quantized) {
      auto& blocks = quantized_.emplace_back(*part.quantized, part.file, part.offset, part.dtype, weight.cols);
      return [&blocks](int32_t row, int32_t rows, char* into) { blocks.read(row, rows, into); };
    }
    if (part.mxfp4) {
      auto& blocks = mxfp4_.emplace_back(*part.mxfp4, part.file, part.offset, weight.cols);
      return [&blocks](int32_t row, int32_t rows, char* into) { blocks.read(row, rows, into); };
    }
    const File& file = open(part.file);
    if (isTransposed(part)) {
      const auto length = static_cast<int32_t>(part.strides->col);
      const TransposedBlocks matrix = {part.offset, part.dtype, length, weight.cols};
      return [&file, matrix](int32_t row, int32_t rows, char* into) { readTransposed(file, matrix, row, rows, into); };
    }
    if (part.strides) {
      const StridedMatrix matrix = {part.offset, *part.strides, static_cast<uint64_t>(blockFormat(part.dtype).bytes),
                                    weight.cols};
      return [&file, matrix](int32_t row, int32_t rows, char* into) { readStrided(file, matrix, row, rows, into); };
    }
    return [&file, offset = part.offset, rowLength](int32_t row, int32_t rows, char* into) {
      file.read(offset + row * rowLength, into, rows * rowLength);
    };
  }

  const File& open(const std::string& path) { return files_.try_emplace(path, path).first->second; }

  const Runner& runner_;
  std::map<std::string, File> files_;  // by path
  std::deque<GroupQuantizedRows> quantized_;
  std::deque<SplitMxfp4Rows> mxfp4_;
  std::vector<Chunk> chunks_;
  uint64_t largest_ = 0;
};

}  // namespace

void loadWeights(Runner& runner, const std::vector<WeightSource>& sources, const std::atomic<bool>& cancelled) {
  Chunks chunks(runner);
  for (const WeightSource& source : sources) chunks.add(source);
  ReadAhead ahead(chunks.all().size(), chunks.largest(),
                  [&](size_t item, char* into) { chunks.all()[item].read(into); });
  for (const Chunk& chunk : chunks.all()) {
    if (cancelled.load(std::memory_order_relaxed)) throw Failure(PAGODA_IO, "Loading was cancelled");
    const char* rows = ahead.next();
    const std::string& name = runner.plan().weights[chunk.weight].name;
    runner.device().prepareWeight(name, runner.weight(chunk.weight), chunk.row, chunk.rows, rows, chunk.dtype);
    runner.device().synchronize();
  }
}

void setWeight(Runner& runner, int32_t index, const std::vector<float>& data) {
  const PagodaWeight& weight = runner.weight(index);
  require(data.size() == static_cast<uint64_t>(weight.rows) * weight.cols, "The data does not fit the weight");
  runner.device().prepareWeight(runner.plan().weights[index].name, weight, 0, weight.rows, data.data(), PAGODA_F32);
  runner.device().synchronize();
}

}  // namespace pagoda
