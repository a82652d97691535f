// EngineThread: order, failures, coalesced wakes, draining into small arrays, closing with jobs queued.
#include "../engine-thread.h"

#include <chrono>
#include <future>
#include <new>
#include <stdexcept>

#include "../failure.h"
#include "check.h"

namespace pagoda::test {
namespace {

// Collects what a thread delivers; `waitFor` blocks until so many jobs have ended.
class Host {
 public:
  explicit Host(size_t words = 64) : words_(words), thread([this] { wake(); }) {}

  struct Ended {
    int32_t job;
    bool failed;
    std::vector<int32_t> values;
  };

  void waitFor(size_t count) {
    std::vector<int32_t> into(words_);
    while (ended.size() < count) {
      {
        std::unique_lock<std::mutex> lock(mutex_);
        changed_.wait_for(lock, std::chrono::seconds(10), [this] { return woken_; });
        woken_ = false;
      }
      while (const size_t written = thread.drain(into.data(), into.size())) read(into.data(), written);
    }
  }
  int wakes() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return wakes_;
  }

 private:
  void wake() {
    const std::lock_guard<std::mutex> lock(mutex_);
    woken_ = true;
    ++wakes_;
    changed_.notify_one();
  }
  void read(const int32_t* words, size_t count) {
    for (size_t at = 0; at < count; at += 3 + words[at + 2])
      ended.push_back({words[at], words[at + 1] != 0, {words + at + 3, words + at + 3 + words[at + 2]}});
  }

  size_t words_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool woken_ = false;
  int wakes_ = 0;

 public:
  std::vector<Ended> ended;
  EngineThread thread;  // last: its wake uses what stands above
};

void testOrder() {
  section("jobs run in order and deliver their values");
  Host host;
  for (int32_t i = 0; i < 1000; ++i)
    host.thread.submit([i](Completion& completion) { completion.values.assign(i % 7, i); });
  host.waitFor(1000);
  for (int32_t i = 0; i < 1000; ++i) {
    CHECK(host.ended[i].job == i + 1 && !host.ended[i].failed);
    CHECK(host.ended[i].values == std::vector<int32_t>(i % 7, i));
  }
  CHECK(host.wakes() <= 1000, "%d wakes", host.wakes());
}

void testFailures() {
  section("whatever a job throws becomes its failure");
  Host host;
  host.thread.submit([](Completion&) { throw Failure(PAGODA_IO, "no file"); });
  host.thread.submit([](Completion&) { throw std::bad_alloc(); });
  host.thread.submit([](Completion&) { throw std::runtime_error("boom"); });
  host.thread.submit([](Completion&) { throw 42; });
  host.thread.submit([](Completion& completion) { completion.floats = {1.5f}; });
  host.waitFor(5);
  const PagodaStatus expected[] = {PAGODA_IO, PAGODA_OUT_OF_MEMORY, PAGODA_FAILED, PAGODA_FAILED};
  for (int32_t job = 1; job <= 4; ++job) {
    Completion completion;
    CHECK(host.ended[job - 1].failed);
    CHECK(host.thread.take(job, &completion) && completion.status == expected[job - 1]);
    CHECK(!host.thread.take(job, &completion), "a failure is taken once");
  }
  Completion completion;
  CHECK(host.thread.take(5, &completion) && completion.floats == std::vector<float>{1.5f});
}

void testSmallDrain() {
  section("completions that do not fit stay for the next drain");
  Host host(5);  // header and two values
  for (int i = 0; i < 50; ++i) host.thread.submit([](Completion& completion) { completion.values = {1, 2}; });
  host.waitFor(50);
  CHECK(host.ended.size() == 50);
}

void testClose() {
  section("close: the job under way ends, queued ones are dropped, the last one runs");
  Host host;
  std::promise<void> started, release;
  bool lastRan = false;
  host.thread.submit([&](Completion&) {
    started.set_value();
    release.get_future().wait();
  });
  bool droppedRan = false;
  for (int i = 0; i < 3; ++i) host.thread.submit([&](Completion&) { droppedRan = true; });
  started.get_future().wait();
  const int32_t last = host.thread.close([&](Completion&) { lastRan = true; });
  CHECK(host.thread.closing().load());
  release.set_value();
  host.waitFor(5);
  host.thread.join();
  CHECK(!droppedRan && lastRan && host.ended.back().job == last);
  CHECK(!host.ended[0].failed);
  for (int i = 1; i <= 3; ++i) {
    Completion completion;
    CHECK(host.ended[i].failed && host.thread.take(host.ended[i].job, &completion) && completion.closed);
  }
  bool refused = false;
  try {
    host.thread.submit([](Completion&) {});
  } catch (const Failure&) {
    refused = true;
  }
  CHECK(refused);
}

void testDestruction() {
  section("a thread may be destroyed at any moment");
  for (int i = 0; i < 200; ++i) {
    EngineThread thread([] {});
    for (int j = 0; j < i % 5; ++j) thread.submit([](Completion& completion) { completion.values = {1}; });
  }
  CHECK(true);
}

}  // namespace
}  // namespace pagoda::test

int main() {
  pagoda::test::testOrder();
  pagoda::test::testFailures();
  pagoda::test::testSmallDrain();
  pagoda::test::testClose();
  pagoda::test::testDestruction();
  return pagoda::test::finish();
}
