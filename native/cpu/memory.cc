#include "memory.h"

#include <unistd.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace pagoda {
namespace {

constexpr uint64_t kAlignment = 256;
constexpr uint64_t kLargePage = 2u << 20;
// From this size on, a request is compared with the available memory.
constexpr uint64_t kCheckedSize = 64u << 20;

using File = std::unique_ptr<FILE, int (*)(FILE*)>;

// The number behind `key` in a file of "key value" lines (or the first number, for an empty key); `missing` if absent.
uint64_t numberIn(const char* path, const char* key, uint64_t missing) {
  const File file(std::fopen(path, "r"), std::fclose);
  const size_t length = std::strlen(key);
  char line[256];
  while (file != nullptr && std::fgets(line, sizeof line, file.get()) != nullptr) {
    uint64_t value = 0;
    if (std::strncmp(line, key, length) != 0) continue;
    if (std::sscanf(line + length, "%" SCNu64, &value) == 1) return value;
  }
  return missing;
}

MemoryInfo machineMemory() {
  const uint64_t page = static_cast<uint64_t>(std::max(sysconf(_SC_PAGESIZE), 1L));
  const uint64_t total = page * static_cast<uint64_t>(std::max(sysconf(_SC_PHYS_PAGES), 0L));
  const uint64_t available = numberIn("/proc/meminfo", "MemAvailable:", total / 1024);
  return {total, std::min(total, available * 1024)};
}

}  // namespace

MemoryInfo memoryInfo() {
  MemoryInfo info = machineMemory();
  // Control groups, version 2: the limit, less what is used but for the page cache. "max" is not a number.
  const uint64_t limit = numberIn("/sys/fs/cgroup/memory.max", "", UINT64_MAX);
  if (limit >= info.total) return info;
  const uint64_t current = numberIn("/sys/fs/cgroup/memory.current", "", 0);
  const uint64_t cached = numberIn("/sys/fs/cgroup/memory.stat", "inactive_file ", 0) +
                          numberIn("/sys/fs/cgroup/memory.stat", "active_file ", 0);
  const uint64_t used = current - std::min(current, cached);
  return {limit, std::min(info.available, limit - std::min(limit, used))};
}

void* allocateAligned(uint64_t bytes, bool largePages) {
  if (bytes >= kCheckedSize && bytes > memoryInfo().available) return nullptr;
  const uint64_t alignment = bytes >= kLargePage ? kLargePage : kAlignment;
  const uint64_t size = std::max<uint64_t>(bytes, 1);
  void* address = nullptr;
  if (posix_memalign(&address, alignment, size) != 0) return nullptr;
#if defined(__linux__)
  if (bytes >= kLargePage && largePages) madvise(address, size, MADV_HUGEPAGE);  // a wish: failing is fine
#endif
  return address;
}

void releaseAligned(void* address) { std::free(address); }

void* ScratchBuffer::reserve(uint64_t bytes) {
  if (data_ != nullptr && bytes <= size_) return data_;
  releaseAligned(data_);
  data_ = nullptr;
  size_ = 0;
  data_ = allocateAligned(bytes);
  if (data_ != nullptr) size_ = bytes;
  return data_;
}

}  // namespace pagoda
