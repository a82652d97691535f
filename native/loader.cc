#include "loader.h"

#include <algorithm>
#include <fstream>
#include <memory>

#include "block-formats.h"
#include "failure.h"

namespace pagoda {

namespace {

constexpr uint64_t kChunkBytes = 8u << 20;  // staging memory while loading

class File {
 public:
  explicit File(const std::string& path) : path_(path) {
    stream_.rdbuf()->pubsetbuf(nullptr, 0);
    stream_.open(path, std::ios::binary);
    if (!stream_) throw Failure(PAGODA_IO, "Cannot open " + path);
  }
  void seek(uint64_t offset) { stream_.seekg(static_cast<std::streamoff>(offset)); }
  void read(char* into, uint64_t bytes) {
    stream_.read(into, static_cast<std::streamsize>(bytes));
    if (static_cast<uint64_t>(stream_.gcount()) != bytes)
      throw Failure(PAGODA_IO, "Unexpected end of " + path_ + ": it has changed or cannot be read");
  }

 private:
  std::string path_;
  std::ifstream stream_;
};

void checkPart(const PagodaWeight& weight, const WeightPart& part) {
  require(part.rowStart >= 0 && part.rows >= 1 && part.rowStart <= weight.rows - part.rows,
          "A part's rows lie outside its weight");
  require(part.offset <= INT64_MAX, "A part's offset is out of range");
  require(weight.cols % blockFormat(part.dtype).columns == 0, "A part's rows do not consist of whole blocks");
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
    require(part.dtype == dtype && part.rows >= 1 && bytes <= data.size() - filled,
            "The parts of a vector do not fit it");
    File file(part.file);
    file.seek(part.offset);
    file.read(data.data() + filled, bytes);
    filled += bytes;
  }
  require(filled == data.size(), "The parts do not fill the vector");
  return data;
}

void loadRows(Runner& runner, const std::string& name, const PagodaWeight& weight, const WeightPart& part,
              const std::atomic<bool>& cancelled) {
  checkPart(weight, part);
  const auto bytes = static_cast<uint64_t>(rowBytes(part.dtype, weight.cols));  // of a row
  const auto chunkRows = static_cast<int32_t>(std::clamp<uint64_t>(kChunkBytes / bytes, 1, part.rows));
  const std::unique_ptr<char[]> staging(new char[bytes * chunkRows]);
  File file(part.file);
  file.seek(part.offset);
  for (int32_t done = 0; done < part.rows; done += chunkRows) {
    if (cancelled.load(std::memory_order_relaxed)) throw Failure(PAGODA_IO, "Loading was cancelled");
    const int32_t rows = std::min(chunkRows, part.rows - done);
    file.read(staging.get(), bytes * rows);
    runner.device().prepareWeight(name, weight, part.rowStart + done, rows, staging.get(), part.dtype);
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
  for (const WeightPart& part : parts) loadRows(runner, name, weight, part, cancelled);
}

void setWeight(Runner& runner, int32_t index, const std::vector<float>& data) {
  const PagodaWeight& weight = runner.weight(index);
  require(data.size() == static_cast<uint64_t>(weight.rows) * weight.cols, "The data does not fit the weight");
  runner.device().prepareWeight(runner.plan().weights[index].name, weight, 0, weight.rows, data.data(), PAGODA_F32);
  runner.device().synchronize();
}

}  // namespace pagoda
