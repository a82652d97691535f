// Reads ahead of a consumer, on a thread of its own, in bounded memory.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace pagoda {

/// Fills buffers with the items [0, count) in order, a few ahead of the consumer.
class ReadAhead {
 public:
  /// Writes item `item` to `into`. Runs on the reading thread; what it throws comes out of `next`.
  using Fill = std::function<void(size_t item, char* into)>;

  /// `bytes`: of the largest item. Throws std::bad_alloc or std::system_error.
  ReadAhead(size_t count, uint64_t bytes, Fill fill);
  /// Waits for the item that is being read; the rest is left.
  ~ReadAhead();
  ReadAhead(const ReadAhead&) = delete;
  ReadAhead& operator=(const ReadAhead&) = delete;

  /// The next item, valid until the next call; at most `count` calls.
  const char* next();

 private:
  static constexpr size_t kBuffers = 4;

  void read();

  const size_t count_;
  const Fill fill_;
  std::unique_ptr<char[]> buffers_[kBuffers];
  std::mutex mutex_;
  std::condition_variable changed_;
  size_t filled_ = 0;  // items read
  size_t taken_ = 0;   // items handed out; the last of them is in use
  bool stopping_ = false;
  std::exception_ptr failure_;
  std::thread thread_;
};

}  // namespace pagoda
