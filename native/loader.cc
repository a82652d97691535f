#include "loader.h"

#include <algorithm>
#include <deque>
#include <memory>

#include "block-formats.h"
#include "failure.h"
#include "file.h"
#include "read-ahead.h"

namespace pagoda {

namespace {

constexpr uint64_t kChunkBytes = 2u << 20;
// Whole panels of all instruction sets, so that none is packed in two goes.
constexpr int32_t kChunkRows = 64;
constexpr uint64_t kMaxStride = 1u << 24;  // elements

void checkPart(const PagodaWeight& weight, const WeightPart& part) {
  require(part.rowStart >= 0 && part.rows >= 1 && part.rowStart <= weight.rows - part.rows,
          "A part's rows lie outside its weight");
  require(part.offset <= INT64_MAX, "A part's offset is out of range");
  require(weight.cols % blockFormat(part.dtype).columns == 0, "A part's rows do not consist of whole blocks");
  if (!part.strides) return;
  require(!isQuantized(part.dtype) && !part.quantized, "A part with strides is quantised");
  require(part.strides->row <= kMaxStride && part.strides->col <= kMaxStride, "A part's stride is out of range");
}

/// A vector is one row for the backend, but may be joined from parts, so its parts are gathered first.
std::vector<char> gatherVector(const PagodaWeight& weight, const std::vector<WeightPart>& parts) {
  const PagodaDtype dtype = parts[0].dtype;
  require(!isQuantized(dtype), "A vector cannot be quantised");
  const uint64_t elementBytes = blockFormat(dtype).bytes;
  std::vector<char> data(static_cast<uint64_t>(weight.cols) * elementBytes);
  uint64_t filled = 0;
  for (const WeightPart& part : parts) {
    const uint64_t bytes = static_cast<uint64_t>(part.rows) * elementBytes;
    require(part.dtype == dtype && !part.quantized && part.rows >= 1 && bytes <= data.size() - filled,
            "The parts of a vector do not fit it");
    if (part.strides) {
      require(part.strides->row <= kMaxStride, "A part's stride is out of range");
      readStrided(File(part.file), {part.offset, {0, part.strides->row}, elementBytes, part.rows}, 0, 1,
                  data.data() + filled);
    } else {
      File(part.file).read(part.offset, data.data() + filled, bytes);
    }
    filled += bytes;
  }
  require(filled == data.size(), "The parts do not fill the vector");
  return data;
}

/// The rows of one part as they are packed.
class RowSource {
 public:
  /// `file`: of the part, open, or nullptr.
  RowSource(const PagodaWeight& weight, const WeightPart& part, std::shared_ptr<const File> file)
      : offset_(part.offset), rowBytes_(static_cast<uint64_t>(rowBytes(part.dtype, weight.cols))) {
    if (part.quantized) {
      blocks_.emplace(*part.quantized, part.file, part.offset, part.dtype, weight.cols);
      return;
    }
    file_ = file != nullptr ? std::move(file) : std::make_shared<const File>(part.file);
    if (part.strides) strided_ = {part.offset, *part.strides, blockFormat(part.dtype).bytes, weight.cols};
  }

  /// nullptr for codes.
  const std::shared_ptr<const File>& file() const { return file_; }

  uint64_t rowLength() const { return rowBytes_; }

  void read(int32_t row, int32_t rows, char* into) {
    if (blocks_) return blocks_->read(row, rows, into);
    if (strided_) return readStrided(*file_, *strided_, row, rows, into);
    file_->read(offset_ + row * rowBytes_, into, rows * rowBytes_);
  }

 private:
  uint64_t offset_;
  uint64_t rowBytes_;
  std::shared_ptr<const File> file_;
  std::optional<StridedMatrix> strided_;
  std::optional<GroupQuantizedRows> blocks_;
};

/// Rows of one part that are read and packed together.
struct Chunk {
  const WeightPart* part;
  RowSource* source;
  int32_t row;  // first, within the part
  int32_t rows;
};

int32_t chunkRows(const WeightPart& part, uint64_t rowBytes) {
  const auto rows = static_cast<int32_t>(std::clamp<uint64_t>(kChunkBytes / rowBytes, 1, INT32_MAX));
  return std::min(part.rows, rows >= kChunkRows ? rows / kChunkRows * kChunkRows : rows);
}

/// What is read of a weight, in order.
class Chunks {
 public:
  Chunks(const PagodaWeight& weight, const std::vector<WeightPart>& parts) {
    const WeightPart* last = nullptr;
    for (const WeightPart& part : parts) {
      checkPart(weight, part);
      // A weight of many experts has many parts in one file, which is opened once.
      const bool isOpen = last != nullptr && last->file == part.file;
      RowSource& source = sources_.emplace_back(weight, part, isOpen ? sources_.back().file() : nullptr);
      last = &part;
      const int32_t step = chunkRows(part, source.rowLength());
      for (int32_t row = 0; row < part.rows; row += std::min(step, part.rows - row))
        add({&part, &source, row, std::min(step, part.rows - row)});
    }
  }

  const std::vector<Chunk>& all() const { return chunks_; }
  uint64_t largest() const { return largest_; }  // bytes

 private:
  void add(const Chunk& chunk) {
    chunks_.push_back(chunk);
    largest_ = std::max(largest_, chunk.rows * chunk.source->rowLength());
  }

  std::deque<RowSource> sources_;
  std::vector<Chunk> chunks_;
  uint64_t largest_ = 0;
};

/// One thread reads ahead while the device packs.
void loadRows(Runner& runner, const std::string& name, const PagodaWeight& weight, const Chunks& chunks,
              const std::atomic<bool>& cancelled) {
  ReadAhead ahead(chunks.all().size(), chunks.largest(), [&](size_t item, char* into) {
    const Chunk& chunk = chunks.all()[item];
    chunk.source->read(chunk.row, chunk.rows, into);
  });
  for (const Chunk& chunk : chunks.all()) {
    if (cancelled.load(std::memory_order_relaxed)) throw Failure(PAGODA_IO, "Loading was cancelled");
    const char* rows = ahead.next();
    const WeightPart& part = *chunk.part;
    runner.device().prepareWeight(name, weight, part.rowStart + chunk.row, chunk.rows, rows, part.dtype);
    runner.device().synchronize();
  }
}

}  // namespace

void loadWeight(Runner& runner, int32_t index, const std::vector<WeightPart>& parts,
                const std::atomic<bool>& cancelled) {
  const PagodaWeight& weight = runner.weight(index);
  const std::string& name = runner.plan().weights[index].name;
  require(!parts.empty(), "A weight needs at least one part");
  if (weight.kind == PAGODA_VECTOR) {
    const std::vector<char> data = gatherVector(weight, parts);
    runner.device().prepareWeight(name, weight, 0, 1, data.data(), parts[0].dtype);
    runner.device().synchronize();
    return;
  }
  int64_t rows = 0;
  for (const WeightPart& part : parts) rows += part.rows;
  require(rows == weight.rows, "The parts do not fill the weight");
  loadRows(runner, name, weight, Chunks(weight, parts), cancelled);
}

void setWeight(Runner& runner, int32_t index, const std::vector<float>& data) {
  const PagodaWeight& weight = runner.weight(index);
  require(data.size() == static_cast<uint64_t>(weight.rows) * weight.cols, "The data does not fit the weight");
  runner.device().prepareWeight(runner.plan().weights[index].name, weight, 0, weight.rows, data.data(), PAGODA_F32);
  runner.device().synchronize();
}

}  // namespace pagoda
