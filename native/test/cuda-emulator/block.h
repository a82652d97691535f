// A block of threads of an emulated launch, or a cluster of blocks: every CUDA thread is a fiber of its own stack, and
// all of them run on the calling thread of the host, one at a time, from one barrier to the next. See emulator.cc.
#ifndef PAGODA_CUDA_EMULATOR_BLOCK_H
#define PAGODA_CUDA_EMULATOR_BLOCK_H

#include <cstddef>
#include <cstdint>

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace pagoda::emulator {

constexpr int kWarpSize = 32;

/// Where the running CUDA thread stands.
struct Position {
  uint3 thread;
  uint3 block;
  dim3 blockSize;
  dim3 gridSize;
};

const Position& position();

/// The dynamic shared memory of the running block; NaN until it is written.
void* sharedMemory();

/// Waits for `threads` threads of the block; 0: for all that have not returned. Ids 0 to 15.
void waitAtBarrier(int id, int threads);

/// Counts as one that has come to the barrier, without waiting.
void arriveAtBarrier(int id, int threads);

void waitForWarp();

/// The running block's number in its cluster, and all threads of the cluster that have not returned meeting.
int clusterRank();
void waitForCluster();

/// Where block `rank` of the cluster has what the running one has at `own`, in shared memory.
void* sharedOf(int rank, const void* own);

/// What a lane gives to the others of its warp, and how it reads theirs: all 32 lanes must take part.
constexpr size_t kExchangeBytes = 64;
void give(const void* value, size_t bytes);
const void* taken(int lane);

int laneIndex();

/// cp.async: copies that become visible when their group has been waited for, and not before.
void queueCopy(void* to, const void* from, size_t bytes, size_t zeros);
void commitCopies();
void waitForCopies(int newest);

/// mbarrier: a phase ends when all have arrived and the announced bytes are there. The number of a new one is returned,
/// which its block knows it by.
uint64_t makePhaseBarrier(int count);
void arriveAtPhase(int rank, uint64_t barrier, int64_t announcedBytes);
void waitForPhase(uint64_t barrier, uint32_t parity);

/// A copy of the copy engine to block `rank`, whose bytes count towards a barrier there. For every other block it is
/// made at once, for the others not before somebody waits for the barrier: code may count on neither.
struct BoxCopy {
  void (*perform)(const BoxCopy& copy);
  void* shared;  // the whole of the block's
  void* to;
  alignas(8) unsigned char map[64];  // a copy: the kernel that queued the box may have returned with its parameters
  int column, plane, row;
  int64_t bytes;
};
void queueBox(int rank, uint64_t barrier, const BoxCopy& copy);

/// wgmma: a thread's share of a product, computed when its group has been waited for, and not before.
struct Product {
  void (*perform)(const Product& product);
  float* d;
  uint64_t a, b;
  bool isAdded;
  float rows[2][16] = {};  // of a, where registers hold it
};
void queueProduct(const Product& product);
void commitProducts();
void waitForProducts(int newest);

struct LaunchShape {
  dim3 grid;
  dim3 block;
  size_t sharedBytes;
  unsigned cluster;  // blocks beside each other in x
};

enum class LaunchResult { ok, invalidShape, deadlock };

/// Runs `body(context)` on every thread of every block.
LaunchResult run(const LaunchShape& shape, void (*body)(void*), void* context);

}  // namespace pagoda::emulator

#endif
