// Host memory as device memory: aligned allocation and how much the machine has.
#ifndef PAGODA_CPU_MEMORY_H
#define PAGODA_CPU_MEMORY_H

#include <stdint.h>

namespace pagoda {

struct MemoryInfo {
  uint64_t total;      // bytes, of the machine or of the control group if that is less
  uint64_t available;  // bytes that can be allocated without swapping, at the time of the call
};

MemoryInfo memoryInfo();

// Memory aligned to 256 bytes, large pages where they are wanted and the system offers them; nullptr if there is not
// enough. Zero bytes are a valid size. Requests beyond what is available are refused here, since the system would grant
// them and kill the process at the first touch.
void* allocateAligned(uint64_t bytes, bool largePages = true);
void releaseAligned(void* address);

// Scratch of one device that grows on demand and is reused.
class ScratchBuffer {
 public:
  ScratchBuffer() = default;
  ~ScratchBuffer() { releaseAligned(data_); }
  ScratchBuffer(const ScratchBuffer&) = delete;
  ScratchBuffer& operator=(const ScratchBuffer&) = delete;

  // At least `bytes` with undefined contents, until the next call; nullptr if there is not enough memory.
  void* reserve(uint64_t bytes);

 private:
  void* data_ = nullptr;
  uint64_t size_ = 0;
};

}  // namespace pagoda

#endif
