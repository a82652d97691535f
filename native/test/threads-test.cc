// The thread pool: every item exactly once, whatever the sizes, pauses and threads.
#include "../cpu/threads.h"

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "check.h"

namespace pagoda::test {
namespace {

struct Job {
  std::vector<std::atomic<int32_t>> seen;
  std::vector<std::atomic<int32_t>> busy;  // by worker
  std::atomic<int32_t> clashes{0};
  std::atomic<int32_t> strangers{0};
  int32_t chunk;

  Job(int32_t items, int32_t threads, int32_t chunkSize) : seen(items), busy(threads), chunk(chunkSize) {}

  static void body(void* context, int32_t begin, int32_t end, int32_t worker) {
    Job& job = *static_cast<Job*>(context);
    if (worker < 0 || worker >= static_cast<int32_t>(job.busy.size())) {
      job.strangers += 1;
      return;
    }
    if (job.busy[worker].exchange(1) != 0) job.clashes += 1;
    for (int32_t i = begin; i < end; ++i) job.seen[i] += 1;
    job.busy[worker] = 0;
  }
};

void runOnce(ThreadPool& pool, int32_t items, int32_t chunk) {
  Job job(items, pool.threads(), chunk);
  pool.run(items, chunk, Job::body, &job);
  bool once = true;
  for (const auto& count : job.seen) once &= count == 1;
  CHECK(once && job.clashes == 0 && job.strangers == 0, "threads %d items %d chunk %d", pool.threads(), items, chunk);
}

void testSizes() {
  section("sizes");
  for (int32_t threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    CHECK(pool.threads() == threads);
    for (int32_t items : {0, 1, 2, 7, 64, 1000}) {
      for (int32_t chunk : {1, 3, 1000, INT32_MAX}) runOnce(pool, items, chunk);
    }
  }
}

// Many short jobs, some after a pause in which the workers have gone to sleep.
void testStress() {
  section("stress");
  for (int32_t threads : {2, 5}) {
    ThreadPool pool(threads);
    for (int32_t i = 0; i < 4000; ++i) {
      runOnce(pool, 1 + i % 13, 1);
      if (i % 100 == 0) std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  }
}

// Starting and stopping, used or not.
void testLifetime() {
  section("lifetime");
  for (int32_t i = 0; i < 200; ++i) {
    ThreadPool pool(1 + i % 4);
    if (i % 3 == 0) runOnce(pool, 10, 1);
  }
  CHECK(true);
}

// Each worker takes part when the items are slow, and run waits for the slowest.
void testParticipation() {
  section("participation");
  ThreadPool pool(2);
  std::atomic<int32_t> counts[2] = {0, 0};
  auto body = [](void* context, int32_t, int32_t, int32_t worker) {
    std::this_thread::sleep_for(std::chrono::milliseconds(worker == 0 ? 2 : 15));
    static_cast<std::atomic<int32_t>*>(context)[worker] += 1;
  };
  pool.run(20, 1, body, counts);
  CHECK(counts[0] > 0 && counts[1] > 0 && counts[0] + counts[1] == 20, "%d and %d", counts[0].load(), counts[1].load());
}

void testDefault() {
  section("default");
  const int32_t threads = defaultThreads();
  CHECK(threads >= 1 && threads <= 64, "%d", threads);
}

}  // namespace
}  // namespace pagoda::test

int main() {
  using namespace pagoda::test;
  testSizes();
  testStress();
  testLifetime();
  testParticipation();
  testDefault();
  return finish();
}
