#include "fresh-pages.h"

#include <algorithm>
#include <ctime>

#include "threads.h"

#if defined(__linux__)
#include <sys/mman.h>
#ifndef MADV_POPULATE_WRITE  // Linux 5.14; older ones refuse it, and pages then come as they are written
#define MADV_POPULATE_WRITE 23
#endif
#endif

namespace pagoda {

#if defined(__linux__)

namespace {

constexpr uintptr_t kPage = 4096;  // where the system's are larger, it refuses what is not aligned to them
constexpr uintptr_t kLargePage = 2u << 20;
constexpr uint64_t kWindow = 4 * kLargePage;
// A large page that takes longer, for any part of it, is slow; 0.1 to 0.3 ms are usual.
constexpr int64_t kSlowNanoseconds = 1'000'000;
constexpr int32_t kMostSlowPages = 4;

uint64_t roundUp(uint64_t x, uint64_t unit) { return (x + unit - 1) / unit * unit; }

// Of this thread, so that those who share the processor do not count.
int64_t processorNanoseconds() {
  timespec time = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return time.tv_sec * int64_t{1'000'000'000} + time.tv_nsec;
}

}  // namespace

void FreshPages::prepare(void* memory, uint64_t size, uint64_t begin, uint64_t end, ThreadPool& pool) {
  const auto base = reinterpret_cast<uintptr_t>(memory);
  struct Range {
    FreshPages* self;
    uintptr_t first, last;
  };
  Range range = {this, base + std::min(roundUp(begin, kWindow), size), base + std::min(roundUp(end, kWindow), size)};
  range.first = range.first / kPage * kPage;
  if (range.first >= range.last) return;
  // One item a large page, the first and the last in part.
  const auto items = static_cast<int32_t>((range.last - 1) / kLargePage - range.first / kLargePage + 1);
  pool.run(
      items, 1,
      [](void* context, int32_t item, int32_t itemEnd, int32_t) {
        const Range& range = *static_cast<Range*>(context);
        for (; item < itemEnd; ++item) {
          const uintptr_t page = (range.first / kLargePage + item) * kLargePage;
          const uintptr_t first = std::max(page, range.first), last = std::min(page + kLargePage, range.last);
          range.self->populate(reinterpret_cast<char*>(first), reinterpret_cast<char*>(last));
        }
      },
      &range);
}

bool FreshPages::largeOnesAreQuick() const { return slowPages_.load(std::memory_order_relaxed) < kMostSlowPages; }

void FreshPages::populate(char* begin, char* end) {
  const auto bytes = static_cast<uintptr_t>(end - begin);
  const bool large = largeOnesAreQuick();
  if (!large) madvise(begin, bytes, MADV_NOHUGEPAGE);
  const int64_t start = processorNanoseconds();
  madvise(begin, bytes, MADV_POPULATE_WRITE);
  if (large && processorNanoseconds() - start > kSlowNanoseconds) slowPages_.fetch_add(1);
}

#else

void FreshPages::prepare(void*, uint64_t, uint64_t, uint64_t, ThreadPool&) {}
void FreshPages::populate(char*, char*) {}
bool FreshPages::largeOnesAreQuick() const { return true; }

#endif

}  // namespace pagoda
