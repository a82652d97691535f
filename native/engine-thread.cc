#include "engine-thread.h"

#include <algorithm>
#include <new>
#include <utility>

#include "failure.h"

namespace pagoda {

namespace {

constexpr size_t kHeaderWords = 3;  // job, status, count

/// The top-level catch of the thread: nothing may leave it.
void runGuarded(const EngineThread::Job& job, Completion& completion) {
  try {
    job(completion);
    return;
  } catch (const Failure& failure) {
    completion.status = failure.status();
    completion.message = failure.what();
  } catch (const std::bad_alloc&) {
    completion.status = PAGODA_OUT_OF_MEMORY;
    completion.message = "Out of memory";
  } catch (const std::exception& exception) {
    completion.status = PAGODA_FAILED;
    completion.message = exception.what();
  } catch (...) {
    completion.status = PAGODA_FAILED;
    completion.message = "Unknown failure";
  }
  completion.values.clear();
  completion.floats.clear();
  completion.bytes.clear();
}

}  // namespace

EngineThread::EngineThread(std::function<void()> wake) : wake_(std::move(wake)), thread_([this] { loop(); }) {}

EngineThread::~EngineThread() {
  close([](Completion&) {});
  join();
}

int32_t EngineThread::nextId() {
  previousId_ = previousId_ == INT32_MAX ? 1 : previousId_ + 1;
  return previousId_;
}

int32_t EngineThread::submit(Job job) {
  const std::lock_guard<std::mutex> lock(mutex_);
  require(!closed_, "The engine thread is closed");
  const int32_t id = nextId();
  queue_.push_back({id, std::move(job)});
  changed_.notify_one();
  return id;
}

int32_t EngineThread::close(Job last) {
  closing_.store(true, std::memory_order_relaxed);
  const std::lock_guard<std::mutex> lock(mutex_);
  if (closed_) return last_.job;
  closed_ = true;
  last_ = {nextId(), std::move(last)};
  changed_.notify_one();
  return last_.job;
}

void EngineThread::join() {
  if (thread_.joinable()) thread_.join();
}

void EngineThread::loop() {
  for (;;) {
    Queued next;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      changed_.wait(lock, [this] { return closed_ || !queue_.empty(); });
      if (closed_) break;
      next = std::move(queue_.front());
      queue_.pop_front();
    }
    execute(std::move(next));
  }
  dropQueued();
  execute(std::move(last_));
}

void EngineThread::dropQueued() {
  std::deque<Queued> dropped;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    dropped.swap(queue_);
  }
  for (const Queued& queued : dropped) {
    Completion completion;
    completion.job = queued.job;
    completion.closed = true;
    deliver(std::move(completion));
  }
}

void EngineThread::execute(Queued queued) {
  Completion completion;
  completion.job = queued.job;
  runGuarded(queued.run, completion);
  queued.run = nullptr;  // whatever the job holds is freed before anybody hears of its end
  deliver(std::move(completion));
}

void EngineThread::deliver(Completion completion) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    completions_.push_back(std::move(completion));
  }
  if (!wakePending_.exchange(true)) wake_();
}

size_t EngineThread::drain(int32_t* into, size_t words) {
  wakePending_.store(false);  // before looking: what is delivered from now on wakes again
  size_t written = 0;
  const std::lock_guard<std::mutex> lock(mutex_);
  while (!completions_.empty()) {
    Completion& next = completions_.front();
    const size_t need = kHeaderWords + next.values.size();
    if (need > words - written) break;
    const bool failed = next.closed || next.status != PAGODA_OK;
    into[written] = next.job;
    into[written + 1] = failed ? 1 : 0;
    into[written + 2] = static_cast<int32_t>(next.values.size());
    std::copy(next.values.begin(), next.values.end(), into + written + kHeaderWords);
    written += need;
    const int32_t job = next.job;
    if (failed || !next.floats.empty() || !next.bytes.empty()) kept_[job] = std::move(next);
    completions_.pop_front();
  }
  return written;
}

bool EngineThread::take(int32_t job, Completion* completion) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = kept_.find(job);
  if (found == kept_.end()) return false;
  *completion = std::move(found->second);
  kept_.erase(found);
  return true;
}

}  // namespace pagoda
