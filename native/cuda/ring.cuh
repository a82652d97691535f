// A ring of stages in shared memory between one producer, who keeps the copy engine busy, and the warps that consume
// what it copies.
#pragma once

#include <hopper.cuh>

#include "kernel.cuh"

namespace pagoda::cuda {

/// Where producer and consumers stand in the ring.
template <int kStages>
struct Ring {
  int stage = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ void next() {
    if (++stage < kStages) return;
    stage = 0;
    parity ^= 1;
  }
};

/// The barriers of the stages; it lies in shared memory.
template <int kStages>
struct Channel {
  PhaseBarrier full[kStages];
  PhaseBarrier empty[kStages];

  /// One thread, before any other call: `publishBarriers` and a barrier of the block follow, or of the cluster, all of
  /// whose consuming warps count.
  __device__ void begin(int consumingWarps) {
    for (int i = 0; i < kStages; ++i) {
      initialize(full[i], 1);
      initialize(empty[i], consumingWarps);
    }
  }

  __device__ __forceinline__ void waitUntilEmpty(const Ring<kStages>& ring) {
    waitForPhase(empty[ring.stage], ring.parity ^ 1);
  }
  __device__ __forceinline__ void waitUntilFull(const Ring<kStages>& ring) {
    waitForPhase(full[ring.stage], ring.parity);
  }

  /// Lets the stage be filled again, as far as this warp is concerned, which has read it. kBlocks: of the cluster,
  /// whose producers all fill it.
  template <int kBlocks = 1>
  __device__ __forceinline__ void release(int stage) {
    if constexpr (kBlocks > 1) {
      if (laneOf() < kBlocks) arriveAt(empty[stage], laneOf());
    } else {
      if (laneOf() == 0) arrive(empty[stage]);
    }
  }
};

}  // namespace pagoda::cuda
