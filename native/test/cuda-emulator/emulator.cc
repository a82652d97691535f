// Fibers, barriers and warps of the emulator. Threads of a cluster run until they wait; when none can go on and some
// have not returned, the launch has deadlocked. Every other block starts with its last thread, so that code that
// depends on the order of threads between two barriers gives two different results.
//
// Under ThreadSanitizer every fiber is a thread of its own and only barriers order them, so a missing barrier is a data
// race that it reports, and the same for device memory; this file itself is compiled without it.
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "block.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(PAGODA_EMULATOR_TSAN)
extern "C" {
void* __tsan_get_current_fiber(void);
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}
#else
static void __tsan_acquire(void*) {}
static void __tsan_release(void*) {}
#endif

#if !defined(__x86_64__)
#error "The emulator switches stacks by x86-64 code"
#endif

// Saves the callee's registers on the stack, which becomes *save, and takes up those of `load`.
asm(R"(
.text
.hidden pagodaSwitchStack
.globl pagodaSwitchStack
.type pagodaSwitchStack, @function
pagodaSwitchStack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size pagodaSwitchStack, .-pagodaSwitchStack
)");
extern "C" void pagodaSwitchStack(void** save, void* load);

namespace pagoda::emulator {
namespace {

constexpr size_t kStackBytes = 256 * 1024;
constexpr unsigned kMaxThreads = 1024;
constexpr int kBarriers = 16;
constexpr unsigned kPhaseBarriers = 64;

/// A stack and where it stopped. One is also made of the host thread that launches.
struct Context {
  void* stackPointer = nullptr;
  const void* bottom = nullptr;
  size_t size = 0;
#if defined(__SANITIZE_ADDRESS__)
  void* fakeStack = nullptr;
#endif
#if defined(PAGODA_EMULATOR_TSAN)
  void* tsan = nullptr;
#endif
};

struct Copy {
  void* to;
  const void* from;
  size_t bytes, zeros;
};

struct Block;

struct Fiber {
  Context context;
  Block* block = nullptr;
  Fiber* next = nullptr;  // in the queue that it is in
  Position position = {};
  int index = 0;                               // in its block
  std::vector<std::vector<Copy>> copies;       // groups, oldest first; the last is open
  std::vector<std::vector<Product>> products;  // the same
  uint32_t exchanges = 0;
};

/// Linked, so that ThreadSanitizer, which sees every memmove, has nothing to see.
struct Queue {
  Fiber* first = nullptr;
  Fiber* last = nullptr;

  void push(Fiber* fiber) {
    fiber->next = nullptr;
    (first == nullptr ? first : last->next) = fiber;
    last = fiber;
  }
  Fiber* pop() {
    Fiber* fiber = first;
    if (fiber != nullptr) first = fiber->next;
    return fiber;
  }
  void append(Queue& other) {
    if (other.first == nullptr) return;
    (first == nullptr ? first : last->next) = other.first;
    last = other.last;
    other = {};
  }
};

struct Barrier {
  int arrived = 0;
  Queue waiting;
};

struct QueuedBox {
  BoxCopy copy;
  QueuedBox* next;
};

struct PhaseBarrier {
  int count = 0;
  int pending = 0;    // arrivals that the phase waits for
  int64_t bytes = 0;  // announced and not there yet
  uint32_t phase = 0;
  Queue waiting;
  QueuedBox* boxes = nullptr;  // oldest first

  bool isOver(uint32_t parity) const { return phase % 2 != parity; }
};

/// Slots of two exchanges: a lane can be at most one exchange ahead of the others.
struct Warp {
  Barrier barrier;
  alignas(16) unsigned char slots[2][kWarpSize][kExchangeBytes];
};

/// What the threads of a block share.
struct Block {
  int rank = 0;  // in its cluster
  unsigned char* shared = nullptr;
  int live = 0;  // threads that have not returned
  Barrier barriers[kBarriers];
  PhaseBarrier phaseBarriers[kPhaseBarriers];
  unsigned numPhaseBarriers = 0;
  bool copiesAtOnce = false;
  std::vector<std::unique_ptr<Warp>> warps;
};

void enterFiber();

/// The fibers of one host thread, and the cluster of blocks that they run.
class Machine {
 public:
  ~Machine();

  LaunchResult run(const LaunchShape& shape, void (*body)(void*), void* context);
  /// Unless it `orders`, the barrier says nothing about memory: a shuffle.
  void wait(Barrier& barrier, int expected, bool orders = true);
  void arrive(Barrier& barrier, int expected);
  void arrive(PhaseBarrier& barrier, int64_t announcedBytes);
  void wait(PhaseBarrier& barrier, uint32_t parity);
  void queue(Block& block, PhaseBarrier& barrier, const BoxCopy& copy);

  [[noreturn]] void fiberLoop();

  /// Threads of the cluster that have not returned.
  int live() const;

  Fiber* current = nullptr;
  std::vector<std::unique_ptr<Block>> blocks;  // of the cluster
  Barrier clusterBarrier;

 private:
  bool runCluster(const LaunchShape& shape, uint3 first, unsigned number);
  void begin(const LaunchShape& shape, Block& block, uint3 place, bool backwards, std::unique_ptr<Fiber>* fibers);
  /// Whether no copy was still on its way.
  bool end(Block& block);
  void giveUp();
  void makeFibers(const LaunchShape& shape);
  void resetFiber(Fiber& fiber);
  void describeHost();
  void perform(PhaseBarrier& barrier, const BoxCopy& copy);
  void endPhaseIfComplete(PhaseBarrier& barrier);
  void release(Barrier& barrier);
  void switchTo(Context& from, Context& to);
  void runNext(Context& from);

  Context host_;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  Queue ready_;
  void (*body_)(void*) = nullptr;
  void* argument_ = nullptr;
};

thread_local Machine machine;

void resumed(Context& context) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(context.fakeStack, nullptr, nullptr);
#else
  (void)context;
#endif
}

void Machine::switchTo(Context& from, Context& to) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&from.fakeStack, to.bottom, to.size);
#endif
#if defined(PAGODA_EMULATOR_TSAN)
  constexpr unsigned kNoSync = 1;
  __tsan_switch_to_fiber(to.tsan, kNoSync);
#endif
  pagodaSwitchStack(&from.stackPointer, to.stackPointer);
  resumed(from);
}

// A fiber returns into `enterFiber` when it is switched to for the first time.
void Machine::resetFiber(Fiber& fiber) {
  auto** top =
      reinterpret_cast<void**>(const_cast<char*>(static_cast<const char*>(fiber.context.bottom)) + kStackBytes);
  constexpr int kSavedRegisters = 6;
  *--top = nullptr;  // keeps the stack aligned as after a call
  *--top = reinterpret_cast<void*>(&enterFiber);
  for (int i = 0; i < kSavedRegisters; ++i) *--top = nullptr;
  fiber.context.stackPointer = top;
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(fiber.context.bottom, kStackBytes);  // frames that were left there ended with no return
#endif
#if defined(PAGODA_EMULATOR_TSAN)
  if (fiber.context.tsan != nullptr) __tsan_destroy_fiber(fiber.context.tsan);
  fiber.context.tsan = __tsan_create_fiber(0);
#endif
}

/// What sanitizers want to know of the thread that launches.
void Machine::describeHost() {
#if defined(PAGODA_EMULATOR_TSAN)
  host_.tsan = __tsan_get_current_fiber();
#endif
#if defined(__SANITIZE_ADDRESS__)
  pthread_attr_t attributes;
  void* bottom = nullptr;
  pthread_getattr_np(pthread_self(), &attributes);
  pthread_attr_getstack(&attributes, &bottom, &host_.size);
  pthread_attr_destroy(&attributes);
  host_.bottom = bottom;
#endif
}

void Machine::makeFibers(const LaunchShape& shape) {
  const size_t threads = shape.block.x * shape.block.y * shape.block.z;
  while (blocks.size() < shape.cluster) {
    blocks.push_back(std::make_unique<Block>());
    blocks.back()->rank = static_cast<int>(blocks.size()) - 1;
  }
  for (const auto& block : blocks)
    while (block->warps.size() < (threads + kWarpSize - 1) / kWarpSize)
      block->warps.push_back(std::make_unique<Warp>());
  while (fibers_.size() < shape.cluster * threads) {
    auto fiber = std::make_unique<Fiber>();
    const size_t page = sysconf(_SC_PAGESIZE);
    void* memory = mmap(nullptr, kStackBytes + page, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (memory == MAP_FAILED) std::abort();
    mprotect(memory, page, PROT_NONE);
    fiber->context.bottom = static_cast<char*>(memory) + page;
    fiber->context.size = kStackBytes;
    resetFiber(*fiber);
    fibers_.push_back(std::move(fiber));
  }
}

Machine::~Machine() {
  const size_t page = sysconf(_SC_PAGESIZE);
  for (const auto& fiber : fibers_) {
    munmap(const_cast<char*>(static_cast<const char*>(fiber->context.bottom)) - page, kStackBytes + page);
#if defined(PAGODA_EMULATOR_TSAN)
    __tsan_destroy_fiber(fiber->context.tsan);
#endif
  }
}

/// Goes on with the first fiber that can; back to the host where none can.
void Machine::runNext(Context& from) {
  current = ready_.pop();
  Context& next = current != nullptr ? current->context : host_;
  if (&next != &from) switchTo(from, next);
}

void Machine::fiberLoop() {
  for (;;) {
    Fiber& self = *current;
    __tsan_acquire(&body_);
    body_(argument_);
    __tsan_release(&host_);
    self.copies.clear();
    self.products.clear();
    Block& block = *self.block;
    --block.live;
    if (block.barriers[0].arrived > 0 && block.barriers[0].arrived == block.live) release(block.barriers[0]);
    if (clusterBarrier.arrived > 0 && clusterBarrier.arrived == live()) release(clusterBarrier);
    runNext(self.context);
  }
}

void enterFiber() {
  resumed(machine.current->context);
  machine.fiberLoop();
}

int Machine::live() const {
  int live = 0;
  for (const auto& block : blocks) live += block->live;
  return live;
}

void Machine::release(Barrier& barrier) {
  ready_.append(barrier.waiting);
  barrier.arrived = 0;
}

void Machine::arrive(Barrier& barrier, int expected) {
  __tsan_release(&barrier);
  if (++barrier.arrived == expected) release(barrier);
}

void Machine::wait(Barrier& barrier, int expected, bool orders) {
  Fiber* self = current;
  if (orders) __tsan_release(&barrier);
  if (++barrier.arrived == expected) {
    release(barrier);
  } else {
    barrier.waiting.push(self);
    runNext(self->context);
  }
  if (orders) __tsan_acquire(&barrier);
}

void Machine::endPhaseIfComplete(PhaseBarrier& barrier) {
  if (barrier.pending != 0 || barrier.bytes != 0) return;
  ++barrier.phase;
  barrier.pending = barrier.count;
  ready_.append(barrier.waiting);
}

void Machine::perform(PhaseBarrier& barrier, const BoxCopy& copy) {
  copy.perform(copy);
  __tsan_release(&barrier);
  barrier.bytes -= copy.bytes;
  endPhaseIfComplete(barrier);
}

void Machine::arrive(PhaseBarrier& barrier, int64_t announcedBytes) {
  __tsan_release(&barrier);
  barrier.bytes += announcedBytes;
  --barrier.pending;
  endPhaseIfComplete(barrier);
}

void Machine::wait(PhaseBarrier& barrier, uint32_t parity) {
  Fiber* self = current;
  if (self->block->copiesAtOnce) {  // others go first, who may fill what was given back too early
    ready_.push(self);
    runNext(self->context);
  }
  while (!barrier.isOver(parity)) {
    if (QueuedBox* box = barrier.boxes) {
      __tsan_acquire(&barrier);
      barrier.boxes = box->next;
      perform(barrier, box->copy);
      delete box;
    } else {
      barrier.waiting.push(self);
      runNext(self->context);
    }
  }
  __tsan_acquire(&barrier);
}

void Machine::queue(Block& block, PhaseBarrier& barrier, const BoxCopy& copy) {
  if (block.copiesAtOnce) return perform(barrier, copy);
  QueuedBox** end = &barrier.boxes;
  while (*end != nullptr) end = &(*end)->next;
  *end = new QueuedBox{copy, nullptr};
  __tsan_release(&barrier);
  ready_.append(barrier.waiting);  // one of them makes the copy
}

bool Machine::end(Block& block) {
  bool isIdle = true;
  for (unsigned i = 0; i < block.numPhaseBarriers; ++i) {
    PhaseBarrier& barrier = block.phaseBarriers[i];
    while (QueuedBox* box = barrier.boxes) {
      barrier.boxes = box->next;
      delete box;
      isIdle = false;
    }
    barrier = {};
  }
  block.numPhaseBarriers = 0;
  std::free(block.shared);
  block.shared = nullptr;
  return isIdle;
}

void Machine::begin(const LaunchShape& shape, Block& block, uint3 place, bool backwards,
                    std::unique_ptr<Fiber>* fibers) {
  const unsigned count = shape.block.x * shape.block.y * shape.block.z;
  // Exactly as large as asked for, so that AddressSanitizer sees what lies behind it.
  void* memory = nullptr;
  if (posix_memalign(&memory, 1024, shape.sharedBytes == 0 ? 1 : shape.sharedBytes) != 0) std::abort();
  block.shared = static_cast<unsigned char*>(memory);
  std::memset(block.shared, 0xff, shape.sharedBytes);
  block.live = static_cast<int>(count);
  block.copiesAtOnce = backwards;
  for (unsigned i = 0; i < count; ++i) {
    const unsigned index = backwards ? count - 1 - i : i;
    Fiber& fiber = *fibers[index];
    const uint3 thread = {index % shape.block.x, index / shape.block.x % shape.block.y,
                          index / shape.block.x / shape.block.y};
    fiber.block = &block;
    fiber.index = static_cast<int>(index);
    fiber.position = {thread, place, shape.block, shape.grid};
    fiber.exchanges = 0;
    ready_.push(&fiber);
  }
}

/// Threads that wait for nothing that will come are left where they are.
void Machine::giveUp() {
  for (const auto& fiber : fibers_) {
    resetFiber(*fiber);
    fiber->copies.clear();
    fiber->products.clear();
  }
  for (const auto& block : blocks) {
    block->live = 0;
    for (Barrier& barrier : block->barriers) barrier = {};
    for (const auto& warp : block->warps) warp->barrier = {};
  }
  clusterBarrier = {};
}

bool Machine::runCluster(const LaunchShape& shape, uint3 first, unsigned number) {
  const size_t threads = shape.block.x * shape.block.y * shape.block.z;
  ready_ = {};
  for (unsigned rank = 0; rank < shape.cluster; ++rank)
    begin(shape, *blocks[rank], {first.x + rank, first.y, first.z}, (number + rank) % 2 == 1, &fibers_[rank * threads]);
  __tsan_release(&body_);
  runNext(host_);
  __tsan_acquire(&host_);
  bool isDone = live() == 0;
  if (!isDone) giveUp();
  for (unsigned rank = 0; rank < shape.cluster; ++rank) isDone = end(*blocks[rank]) && isDone;
  return isDone;
}

LaunchResult Machine::run(const LaunchShape& shape, void (*body)(void*), void* argument) {
  const unsigned count = shape.block.x * shape.block.y * shape.block.z;
  constexpr unsigned kMaxGridSide = 65535, kMaxCluster = 8;
  if (count == 0 || count > kMaxThreads || count % kWarpSize != 0 || shape.grid.x == 0 || shape.grid.y == 0 ||
      shape.grid.z == 0 || shape.grid.y > kMaxGridSide || shape.grid.z > kMaxGridSide || shape.cluster == 0 ||
      shape.cluster > kMaxCluster || shape.grid.x % shape.cluster != 0)
    return LaunchResult::invalidShape;
  makeFibers(shape);
  describeHost();
  body_ = body;
  argument_ = argument;
  unsigned number = 0;
  for (unsigned z = 0; z < shape.grid.z; ++z) {
    for (unsigned y = 0; y < shape.grid.y; ++y) {
      for (unsigned x = 0; x < shape.grid.x; x += shape.cluster) {
        if (!runCluster(shape, {x, y, z}, number)) return LaunchResult::deadlock;
        number += shape.cluster;
      }
    }
  }
  return LaunchResult::ok;
}

Block& ownBlock() { return *machine.current->block; }

Warp& warpOf(const Fiber& fiber) { return *fiber.block->warps[fiber.index / kWarpSize]; }

template <typename Item>
std::vector<Item>& openGroup(std::vector<std::vector<Item>>& groups) {
  if (groups.empty()) groups.emplace_back();
  return groups.back();
}

template <typename Item>
void closeGroup(std::vector<std::vector<Item>>& groups) {
  openGroup(groups);
  groups.emplace_back();
}

/// Finishes all closed groups but the newest ones.
template <typename Item, typename Finish>
void finishGroups(std::vector<std::vector<Item>>& groups, int newest, Finish finish) {
  const auto closed = static_cast<int>(groups.size()) - 1;
  for (int i = 0; i < closed - newest; ++i) {
    for (const Item& item : groups.front()) finish(item);
    groups.erase(groups.begin());
  }
}

Block& blockOf(int rank) { return *machine.blocks.at(rank); }

PhaseBarrier& phaseBarrier(Block& block, uint64_t number) {
  if (number >= block.numPhaseBarriers) std::abort();  // nobody made it
  return block.phaseBarriers[number];
}

}  // namespace

const Position& position() { return machine.current->position; }

void* sharedMemory() { return ownBlock().shared; }

int clusterRank() { return ownBlock().rank; }

void waitForCluster() { machine.wait(machine.clusterBarrier, machine.live()); }

void* sharedOf(int rank, const void* own) {
  if (blockOf(rank).live == 0) std::abort();  // its memory is another block's
  return blockOf(rank).shared + (static_cast<const unsigned char*>(own) - ownBlock().shared);
}

void waitAtBarrier(int id, int threads) {
  Block& block = ownBlock();
  machine.wait(block.barriers[id], threads == 0 ? block.live : threads);
}

void arriveAtBarrier(int id, int threads) { machine.arrive(ownBlock().barriers[id], threads); }

void waitForWarp() { machine.wait(warpOf(*machine.current).barrier, kWarpSize); }

void give(const void* value, size_t bytes) {
  Fiber& self = *machine.current;
  Warp& warp = warpOf(self);
  unsigned char* slot = warp.slots[self.exchanges++ % 2][self.index % kWarpSize];
  for (size_t i = 0; i < bytes; ++i) slot[i] = static_cast<const unsigned char*>(value)[i];
  machine.wait(warp.barrier, kWarpSize, false);
}

const void* taken(int lane) {
  const Fiber& self = *machine.current;
  return warpOf(self).slots[(self.exchanges + 1) % 2][lane % kWarpSize];
}

int laneIndex() { return machine.current->index % kWarpSize; }

void queueCopy(void* to, const void* from, size_t bytes, size_t zeros) {
  openGroup(machine.current->copies).push_back({to, from, bytes, zeros});
}

void commitCopies() { closeGroup(machine.current->copies); }

void waitForCopies(int newest) {
  finishGroups(machine.current->copies, newest, [](const Copy& copy) {
    std::memcpy(copy.to, copy.from, copy.bytes);
    std::memset(static_cast<char*>(copy.to) + copy.bytes, 0, copy.zeros);
  });
}

void queueProduct(const Product& product) { openGroup(machine.current->products).push_back(product); }

void commitProducts() { closeGroup(machine.current->products); }

void waitForProducts(int newest) {
  finishGroups(machine.current->products, newest, [](const Product& product) { product.perform(product); });
}

uint64_t makePhaseBarrier(int count) {
  Block& block = ownBlock();
  if (block.numPhaseBarriers == kPhaseBarriers) std::abort();
  PhaseBarrier& barrier = block.phaseBarriers[block.numPhaseBarriers];
  barrier.count = barrier.pending = count;
  return block.numPhaseBarriers++;
}

void arriveAtPhase(int rank, uint64_t barrier, int64_t announcedBytes) {
  machine.arrive(phaseBarrier(blockOf(rank), barrier), announcedBytes);
}

void waitForPhase(uint64_t barrier, uint32_t parity) { machine.wait(phaseBarrier(ownBlock(), barrier), parity); }

void queueBox(int rank, uint64_t barrier, const BoxCopy& copy) {
  Block& block = blockOf(rank);
  machine.queue(block, phaseBarrier(block, barrier), copy);
}

LaunchResult run(const LaunchShape& shape, void (*body)(void*), void* context) {
  return machine.run(shape, body, context);
}

}  // namespace pagoda::emulator
