// Fresh pages are there before they are written, and what is written already stays.
#include "../cpu/fresh-pages.h"

#include <cstdint>
#include <vector>

#include "../cpu/memory.h"
#include "../cpu/threads.h"
#include "check.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace pagoda::test {
namespace {

constexpr uint64_t kSize = (20u << 20) + 12345;
constexpr uint64_t kPage = 4096;

#if defined(__linux__)
/// Pages of [begin, end) that are in memory.
uint64_t residentPages(char* memory, uint64_t begin, uint64_t end) {
  std::vector<unsigned char> pages((end - begin + kPage - 1) / kPage);
  CHECK(mincore(memory + begin, end - begin, pages.data()) == 0);
  uint64_t count = 0;
  for (const unsigned char page : pages) count += page & 1;
  return count;
}

/// Linux before 5.14 cannot make pages ready, and an emulator may say that it did; then they come as they are written.
bool canPopulate(char* page) { return madvise(page, kPage, 23) == 0 && residentPages(page, 0, kPage) == 1; }

void testReady() {
  section("windows are ready when their first bytes are to be written");
  char* memory = static_cast<char*>(allocateAligned(kSize));
  CHECK(memory != nullptr);
  if (!canPopulate(memory)) return releaseAligned(memory);
  ThreadPool pool(2);
  FreshPages pages;
  pages.prepare(memory, kSize, 0, 1000, pool);
  CHECK(residentPages(memory, 0, 8u << 20) == (8u << 20) / kPage);
  pages.prepare(memory, kSize, 1000, kSize, pool);
  CHECK(residentPages(memory, 0, kSize) == kSize / kPage + 1);
  releaseAligned(memory);
}
#endif

void testContents() {
  section("what is written stays, wherever ranges begin and end");
  ThreadPool pool(2);
  FreshPages pages;
  char* memory = static_cast<char*>(allocateAligned(kSize));
  for (uint64_t i = 0; i < kSize; i += 511) memory[i] = static_cast<char>(i % 251);
  for (const uint64_t start : {uint64_t{0}, uint64_t{1}, kPage - 1, uint64_t{5} << 20}) {
    uint64_t begin = 0;
    for (const uint64_t end : {uint64_t{0}, uint64_t{1}, uint64_t{3} << 20, kSize - start}) {
      pages.prepare(memory + start, kSize - start, begin, end, pool);
      begin = end;
    }
  }
  for (uint64_t i = 0; i < kSize; i += 511) CHECK(memory[i] == static_cast<char>(i % 251));
  releaseAligned(memory);
}

}  // namespace
}  // namespace pagoda::test

int main() {
  using namespace pagoda::test;
#if defined(__linux__)
  testReady();
#endif
  testContents();
  return finish();
}
