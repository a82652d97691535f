// The workers of a CPU device. Seen by files compiled per instruction set, so nothing here is defined inline.
#ifndef PAGODA_CPU_THREADS_H
#define PAGODA_CPU_THREADS_H

#include <stdint.h>

namespace pagoda {

class ThreadPool {
 public:
  // Handles items [begin, end); `worker` < threads() is unique among the bodies that run at the same time.
  using Body = void (*)(void* context, int32_t begin, int32_t end, int32_t worker);

  // threads >= 1, the calling thread included. Throws std::system_error or std::bad_alloc.
  explicit ThreadPool(int32_t threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int32_t threads() const;

  // Runs `body` over items [0, items), handed out `chunk` at a time in rising order, and returns when all are done.
  // One caller at a time; `body` must not throw or call run.
  void run(int32_t items, int32_t chunk, Body body, void* context);

 private:
  struct State;
  State* state_;
};

// Physical cores that this process may use, by affinity and CPU quota: 1 to 64.
int32_t defaultThreads();

}  // namespace pagoda

#endif
