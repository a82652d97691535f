// A file that is read at places.
#pragma once

#include <cstdint>
#include <string>

namespace pagoda {

class File {
 public:
  /// Throws PAGODA_IO.
  explicit File(const std::string& path);
  ~File();
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  /// Reads exactly `bytes` bytes from `offset`. Throws PAGODA_IO, also where the file ends before. Any thread.
  void read(uint64_t offset, void* into, uint64_t bytes) const;

 private:
  std::string path_;
  int descriptor_;
};

}  // namespace pagoda
