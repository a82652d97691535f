// Reading ahead: all items in order, in a few buffers; failures where they belong; an early end.
#include "../read-ahead.h"

#include <atomic>
#include <chrono>
#include <cstring>
#include <stdexcept>
#include <thread>

#include "check.h"

namespace pagoda::test {
namespace {

constexpr uint64_t kBytes = 4096;

void fillWith(size_t item, char* into) { std::memset(into, static_cast<int>(item % 251), kBytes); }

bool holds(const char* data, size_t item) {
  for (uint64_t i = 0; i < kBytes; ++i)
    if (data[i] != static_cast<char>(item % 251)) return false;
  return true;
}

void testOrder() {
  section("items come in order, whoever is slow");
  for (const size_t count : {size_t{0}, size_t{1}, size_t{3}, size_t{4}, size_t{5}, size_t{2000}}) {
    std::atomic<size_t> filled{0};
    ReadAhead ahead(count, kBytes, [&](size_t item, char* into) {
      if (item % 97 == 5) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      fillWith(item, into);
      filled = item + 1;
    });
    for (size_t item = 0; item < count; ++item) {
      const char* data = ahead.next();
      if (item % 89 == 7) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      CHECK(filled <= item + 4, "%zu items are held while %zu is in use", filled.load(), item);
      CHECK(holds(data, item), "item %zu of %zu", item, count);
    }
  }
}

void testFailure() {
  section("a failure comes after the items before it");
  ReadAhead ahead(10, kBytes, [](size_t item, char* into) {
    if (item == 6) throw std::runtime_error("no more");
    fillWith(item, into);
  });
  for (size_t item = 0; item < 6; ++item) CHECK(holds(ahead.next(), item), "item %zu", item);
  try {
    ahead.next();
    CHECK(false, "item 6 was read");
  } catch (const std::runtime_error& error) {
    CHECK(std::strcmp(error.what(), "no more") == 0, "%s", error.what());
  }
}

void testEarlyEnd() {
  section("ending early reads no more than what fits");
  std::atomic<size_t> filled{0};
  {
    ReadAhead ahead(1000, kBytes, [&](size_t item, char* into) {
      fillWith(item, into);
      filled += 1;
    });
    CHECK(holds(ahead.next(), 0));
  }
  CHECK(filled <= 4, "%zu items", filled.load());
}

}  // namespace
}  // namespace pagoda::test

int main() {
  using namespace pagoda::test;
  testOrder();
  testFailure();
  testEarlyEnd();
  return finish();
}
