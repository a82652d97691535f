#include "file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "failure.h"

namespace pagoda {

File::File(const std::string& path) : path_(path), descriptor_(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
  if (descriptor_ < 0) throw Failure(PAGODA_IO, "Cannot open " + path);
#if defined(__linux__)
  posix_fadvise(descriptor_, 0, 0, POSIX_FADV_SEQUENTIAL);  // the system reads further ahead; failing is fine
#endif
}

File::~File() { close(descriptor_); }

void File::read(uint64_t offset, void* into, uint64_t bytes) const {
  constexpr uint64_t kLargest = 1u << 30;  // that all systems read at once
  while (bytes > 0) {
    const ssize_t got = pread(descriptor_, into, std::min(bytes, kLargest), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) throw Failure(PAGODA_IO, "Unexpected end of " + path_ + ": it has changed or cannot be read");
    offset += static_cast<uint64_t>(got);
    bytes -= static_cast<uint64_t>(got);
    into = static_cast<char*>(into) + got;
  }
}

}  // namespace pagoda
