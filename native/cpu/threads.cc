#include "threads.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif

namespace pagoda {
namespace {

constexpr int32_t kMaxThreads = 64;
// How long a thread looks for work, or for the last worker, before it sleeps.
constexpr auto kSpin = std::chrono::microseconds(50);

// The gate is one word: how many workers are inside the current job, whether it may still be entered, its number.
constexpr uint32_t kInside = 0xff;
constexpr uint32_t kOpen = 0x100;
constexpr uint32_t kJob = 0x200;

uint32_t jobOf(uint32_t gate) { return gate & ~(kOpen | kInside); }

void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Waits until the gate is no longer `seen`: first spinning, then asleep.
void awaitChange(std::atomic<uint32_t>& gate, uint32_t seen) {
  const auto deadline = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 32; ++i) {
      if (gate.load(std::memory_order_acquire) != seen) return;
      pause();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  gate.wait(seen, std::memory_order_acquire);
}

}  // namespace

// Workers enter a job through the gate while it is open. The caller works too, and when no items are left it closes the
// gate and waits only for those inside: a worker that the system has not scheduled in time delays nobody.
struct ThreadPool::State {
  alignas(64) std::atomic<uint32_t> gate{0};
  alignas(64) std::atomic<int64_t> next{0};
  std::atomic<bool> stopping{false};
  int32_t items = 0;
  int32_t chunk = 1;
  Body body = nullptr;
  void* context = nullptr;
  std::vector<std::thread> workers;

  void work(int32_t worker) {
    for (;;) {
      const int64_t begin = next.fetch_add(chunk, std::memory_order_relaxed);
      if (begin >= items) return;
      const int64_t end = std::min<int64_t>(begin + chunk, items);
      body(context, static_cast<int32_t>(begin), static_cast<int32_t>(end), worker);
    }
  }

  // Enters the first open job other than `last`; false when the pool stops.
  bool enter(uint32_t& last) {
    for (;;) {
      uint32_t now = gate.load(std::memory_order_acquire);
      if (stopping.load(std::memory_order_relaxed)) return false;
      if ((now & kOpen) == 0 || jobOf(now) == last) {
        awaitChange(gate, now);
      } else if (gate.compare_exchange_weak(now, now + 1, std::memory_order_acq_rel)) {
        last = jobOf(now);
        return true;
      }
    }
  }

  void serve(int32_t worker) {
    uint32_t last = 0;
    while (enter(last)) {
      work(worker);
      const uint32_t before = gate.fetch_sub(1, std::memory_order_acq_rel);
      if ((before & (kInside | kOpen)) == 1) gate.notify_all();
    }
  }

  void publish(uint32_t flags) {
    const uint32_t job = jobOf(gate.load(std::memory_order_relaxed)) + kJob;
    gate.store(job | flags, std::memory_order_release);
    gate.notify_all();
  }

  void stop() {
    stopping.store(true, std::memory_order_relaxed);
    publish(0);
    for (std::thread& worker : workers) worker.join();
  }
};

ThreadPool::ThreadPool(int32_t threads) {
  auto state = std::make_unique<State>();
  state->workers.reserve(static_cast<size_t>(threads) - 1);
  try {
    for (int32_t i = 1; i < threads; ++i) {
      state->workers.emplace_back([pool = state.get(), i] { pool->serve(i); });
    }
  } catch (...) {
    state->stop();
    throw;
  }
  state_ = state.release();
}

ThreadPool::~ThreadPool() {
  state_->stop();
  delete state_;
}

int32_t ThreadPool::threads() const { return static_cast<int32_t>(state_->workers.size()) + 1; }

void ThreadPool::run(int32_t items, int32_t chunk, Body body, void* context) {
  if (items <= 0) return;
  if (items <= chunk || state_->workers.empty()) return body(context, 0, items, 0);
  State& state = *state_;
  state.items = items;
  state.chunk = chunk;
  state.body = body;
  state.context = context;
  state.next.store(0, std::memory_order_relaxed);
  state.publish(kOpen);
  state.work(0);
  uint32_t now = state.gate.fetch_and(~kOpen, std::memory_order_acq_rel) & ~kOpen;
  while ((now & kInside) != 0) {
    awaitChange(state.gate, now);
    now = state.gate.load(std::memory_order_acquire);
  }
}

// ---- how many threads ------------------------------------------------------------------------------

namespace {

#if defined(__linux__)

std::string firstLine(const std::string& path) {
  std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen(path.c_str(), "r"), std::fclose);
  char line[256] = "";
  if (file == nullptr || std::fgets(line, sizeof line, file.get()) == nullptr) return "";
  return line;
}

// Cores with at least one processor that this process may run on; hyperthreads of a core count once.
int32_t allowedCores() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return 0;
  std::set<std::string> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    const std::string name = std::to_string(cpu);
    const std::string siblings = firstLine("/sys/devices/system/cpu/cpu" + name + "/topology/thread_siblings_list");
    cores.insert(siblings.empty() ? name : siblings);
  }
  return static_cast<int32_t>(cores.size());
}

// Whole processors' worth of time that the control group grants, 0: no limit known.
int32_t quotaCores() {
  long quota = 0;
  long period = 0;
  const std::string line = firstLine("/sys/fs/cgroup/cpu.max");
  if (std::sscanf(line.c_str(), "%ld %ld", &quota, &period) != 2 || quota <= 0 || period <= 0) return 0;
  return static_cast<int32_t>(std::clamp<long>((quota + period - 1) / period, 1, kMaxThreads));
}

#else

int32_t allowedCores() { return 0; }
int32_t quotaCores() { return 0; }

#endif

}  // namespace

int32_t defaultThreads() {
  int32_t cores = allowedCores();
  if (cores <= 0) cores = static_cast<int32_t>(std::thread::hardware_concurrency());
  const int32_t quota = quotaCores();
  if (quota > 0) cores = std::min(cores, quota);
  return std::clamp(cores, int32_t{1}, kMaxThreads);
}

}  // namespace pagoda
