// Instructions that only sm_90a has: barriers in shared memory that count bytes, the copy engine, and the tensor cores
// of a warpgroup. The tests have a twin of this file (native/test/cuda-emulator). PTX ISA 8: sections in brackets.
#pragma once

#include <ptx.cuh>

#include "tensor-map.cuh"
#include "wgmma-layout.h"

namespace pagoda::cuda {

// ---- barriers in shared memory [mbarrier] ---------------------------------------------------------------------------

/// A phase ends when `count` threads have arrived and all bytes that they announced are there. Then the next one
/// begins.
struct PhaseBarrier {
  uint64_t state;
};

__device__ __forceinline__ void initialize(PhaseBarrier& barrier, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(sharedAddress(&barrier)), "r"(count) : "memory");
}

/// After the last `initialize`, before the threads of the block meet: the copy engine sees the barriers, too.
__device__ __forceinline__ void publishBarriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

__device__ __forceinline__ void arrive(PhaseBarrier& barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(sharedAddress(&barrier)) : "memory");
}

/// Arrives and announces bytes that will be copied.
__device__ __forceinline__ void arriveAndExpect(PhaseBarrier& barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(sharedAddress(&barrier)), "r"(bytes)
               : "memory");
}

/// Waits for the end of the phase of this parity, the first phase being 0. The phase before the first counts as ended.
__device__ __forceinline__ void waitForPhase(PhaseBarrier& barrier, uint32_t parity) {
  uint32_t isOver;
  do {
    asm volatile("{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
                 : "=r"(isOver)
                 : "r"(sharedAddress(&barrier)), "r"(parity)
                 : "memory");
  } while (isOver == 0);
}

// ---- clusters: blocks that run at the same time and reach each other's shared memory [cluster] ---------------------

/// The block's number in its cluster.
__device__ __forceinline__ int clusterRank() {
  int rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

/// All threads of the cluster that have not returned meet.
__device__ __forceinline__ void syncCluster() {
  asm volatile("barrier.cluster.arrive.release; barrier.cluster.wait.acquire;" ::: "memory");
}

/// Arrives at the barrier that block `rank` has in the same place.
__device__ __forceinline__ void arriveAt(PhaseBarrier& barrier, int rank) {
  asm volatile(
      "{.reg .b32 there; mapa.shared::cluster.u32 there, %0, %1; "
      "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [there];}" ::"r"(sharedAddress(&barrier)),
      "r"(rank)
      : "memory");
}

// ---- the copy engine [cp.async.bulk.tensor] -------------------------------------------------------------------------

/// Copies the box at (column, plane, row) to `shared`, a multiple of 1024 bytes; its bytes count towards `barrier`.
__device__ __forceinline__ void copyBox(void* shared, const TensorMap& map, PhaseBarrier& barrier, int column,
                                        int plane, int row) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::
          "r"(sharedAddress(shared)),
      "l"(&map), "r"(sharedAddress(&barrier)), "r"(column), "r"(plane), "r"(row)
      : "memory");
}

/// The same into all blocks of the cluster whose bits are set in `ranks`, at the same place, counted by the barrier
/// that each has in the place of `barrier`.
__device__ __forceinline__ void copyBoxToCluster(void* shared, const TensorMap& map, PhaseBarrier& barrier, int column,
                                                 int plane, int row, uint16_t ranks) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%3, "
      "%4, %5}], [%2], %6;" ::"r"(sharedAddress(shared)),
      "l"(&map), "r"(sharedAddress(&barrier)), "r"(column), "r"(plane), "r"(row), "h"(ranks)
      : "memory");
}

/// What this thread wrote to shared memory is seen by the copy engine and by the tensor cores.
__device__ __forceinline__ void publishShared() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---- registers of a warpgroup: all its warps take part [setmaxnreg] -----------------------------------------------

template <int kRegisters>
__device__ __forceinline__ void takeRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

template <int kRegisters>
__device__ __forceinline__ void giveRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// ---- matrices of a warpgroup [wgmma] ---------------------------------------------------------
// Nothing may touch `d` between the start of a product and the wait for its group.

/// Before the first product that reads registers or shared memory that threads have written.
__device__ __forceinline__ void beginProducts() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void commitProducts() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

/// Waits for all groups but the newest ones.
template <int kNewest>
__device__ __forceinline__ void waitForProducts() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kNewest) : "memory");
}

#include "wgmma-shapes.cuh"

}  // namespace pagoda::cuda
