#include "read-ahead.h"

#include <algorithm>
#include <utility>

namespace pagoda {

ReadAhead::ReadAhead(size_t count, uint64_t bytes, Fill fill) : count_(count), fill_(std::move(fill)) {
  for (size_t i = 0; i < std::min(count, kBuffers); ++i) buffers_[i].reset(new char[bytes]);
  thread_ = std::thread([this] { read(); });
}

ReadAhead::~ReadAhead() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void ReadAhead::read() {
  for (size_t item = 0; item < count_; ++item) {
    {
      std::unique_lock<std::mutex> lock(mutex_);
      // The consumer holds item taken_ - 1.
      changed_.wait(lock, [&] { return stopping_ || item < std::max<size_t>(taken_, 1) - 1 + kBuffers; });
      if (stopping_) return;
    }
    std::exception_ptr failure;
    try {
      fill_(item, buffers_[item % kBuffers].get());
    } catch (...) {
      failure = std::current_exception();
    }
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      failure_ = failure;
      if (!failure) filled_ = item + 1;
    }
    changed_.notify_all();
    if (failure) return;
  }
}

const char* ReadAhead::next() {
  std::unique_lock<std::mutex> lock(mutex_);
  const size_t item = taken_++;
  changed_.notify_all();
  changed_.wait(lock, [&] { return filled_ > item || failure_; });
  if (filled_ <= item) std::rethrow_exception(failure_);
  return buffers_[item % kBuffers].get();
}

}  // namespace pagoda
