// Pages for memory that is about to be written for the first time.
//
// At the first touch of a page the system finds and clears one. That is most of the time of loading a model, so all
// workers do it, a window at a time and before they pack into it; left to the packing, two workers would often clear
// the same large page and one of them in vain.
//
// Large pages make kernels faster and are the cheapest to clear, unless they are not at hand: a virtual machine that
// gives free memory back to its host waits for the host at every 4 KB of a fresh large page, while small pages come
// from what was freed a moment ago. So large pages are used as long as they come quickly.
#ifndef PAGODA_CPU_FRESH_PAGES_H
#define PAGODA_CPU_FRESH_PAGES_H

#include <stdint.h>

#include <atomic>

namespace pagoda {

class ThreadPool;

class FreshPages {
 public:
  // Bytes [begin, end) of the `size` bytes at `memory` will be written next. Ranges follow each other from 0 on: each
  // window is made ready with the first of its bytes. Only a matter of speed: failing is fine.
  void prepare(void* memory, uint64_t size, uint64_t begin, uint64_t end, ThreadPool& pool);

  // Whether new memory should be of large pages, going by those that were prepared.
  bool largeOnesAreQuick() const;

 private:
  void populate(char* begin, char* end);

  std::atomic<int32_t> slowPages_{0};  // large pages that did not come quickly
};

}  // namespace pagoda

#endif
