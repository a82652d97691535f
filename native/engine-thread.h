// One thread that runs jobs in order, and hands their results to another thread through one coalesced wake.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "backend.h"

namespace pagoda {

/// What a job leaves behind.
struct Completion {
  int32_t job = 0;
  bool closed = false;  // the job was dropped because the engine closed
  PagodaStatus status = PAGODA_OK;
  std::string message;          // where status is not PAGODA_OK
  std::vector<int32_t> values;  // drained with the completion
  std::vector<float> floats;    // fetched by `take`
  std::vector<uint8_t> bytes;   // fetched by `take`
};

class EngineThread {
 public:
  using Job = std::function<void(Completion&)>;

  /// `wake` is called from the engine thread when completions have become available after none were: it must only
  /// signal, and `drain` must follow.
  explicit EngineThread(std::function<void()> wake);
  /// As close and join.
  ~EngineThread();
  EngineThread(const EngineThread&) = delete;
  EngineThread& operator=(const EngineThread&) = delete;

  /// Queues a job and returns its id, which is positive. A job that throws Failure completes with its status.
  /// Throws PAGODA_INVALID after close.
  int32_t submit(Job job);
  /// Queues the last job: `last` runs after the job under way; jobs still queued complete as closed.
  int32_t close(Job last);
  /// Waits until the thread has ended. Only after close.
  void join();
  /// Set by close: long jobs should give up soon.
  const std::atomic<bool>& closing() const { return closing_; }

  /// Moves completions into `into` as [job, failed, count, values...] while they fit; returns the words written: call
  /// it until it returns 0. Failures and results with floats or bytes are kept for `take`.
  size_t drain(int32_t* into, size_t words);
  /// The completion of a drained job that failed or left floats or bytes; removes it. False if there is none.
  bool take(int32_t job, Completion* completion);

 private:
  struct Queued {
    int32_t job;
    Job run;
  };

  int32_t nextId();
  void loop();
  void execute(Queued queued);
  void deliver(Completion completion);
  void dropQueued();

  std::function<void()> wake_;
  std::atomic<bool> closing_{false};
  std::atomic<bool> wakePending_{false};
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Queued> queue_;
  Queued last_{};  // set by close
  bool closed_ = false;
  int32_t previousId_ = 0;
  std::deque<Completion> completions_;  // not drained yet
  std::map<int32_t, Completion> kept_;  // drained, to be taken
  std::thread thread_;
};

}  // namespace pagoda
