// The emulated twin of native/cuda/machine/hopper.cuh: the same functions in C++.
#pragma once

#include <cstdlib>
#include <cstring>

#include "../../cuda/machine/wgmma-layout.h"
#include "ptx.cuh"
#include "tensor-map.cuh"

namespace pagoda::cuda {

// ---- barriers: what lies in shared memory is their number -----------------------------------------------------------

struct PhaseBarrier {
  uint64_t state;
};

inline void initialize(PhaseBarrier& barrier, int count) { barrier.state = emulator::makePhaseBarrier(count); }
inline void publishBarriers() {}
inline void arriveAndExpect(PhaseBarrier& barrier, uint32_t bytes) {
  emulator::arriveAtPhase(emulator::clusterRank(), barrier.state, bytes);
}
inline void arrive(PhaseBarrier& barrier) { arriveAndExpect(barrier, 0); }
inline void waitForPhase(PhaseBarrier& barrier, uint32_t parity) { emulator::waitForPhase(barrier.state, parity); }

// ---- clusters of blocks ---------------------------------------------------------------------------------------------

inline int clusterRank() { return emulator::clusterRank(); }
inline void syncCluster() { emulator::waitForCluster(); }
inline PhaseBarrier& barrierOf(int rank, PhaseBarrier& barrier) {
  return *static_cast<PhaseBarrier*>(emulator::sharedOf(rank, &barrier));
}
inline void arriveAt(PhaseBarrier& barrier, int rank) {
  emulator::arriveAtPhase(rank, barrierOf(rank, barrier).state, 0);
}

// ---- shared memory has addresses of its own, which do not begin at 0
// ----------------------------------------------------

constexpr uint32_t kSharedStart = 1024;

inline uint32_t addressIn(const void* shared, const void* address) {
  return kSharedStart + static_cast<uint32_t>(static_cast<const char*>(address) - static_cast<const char*>(shared));
}
inline uint16_t* elementIn(void* shared, uint32_t address) {
  return reinterpret_cast<uint16_t*>(static_cast<char*>(shared) + (address - kSharedStart));
}

inline uint32_t sharedAddress(const void* address) { return addressIn(emulator::sharedMemory(), address); }
inline uint16_t* sharedElement(uint32_t address) { return elementIn(emulator::sharedMemory(), address); }

// ---- the copy engine ------------------------------------------------------------------------------------------------

inline void performBox(const emulator::BoxCopy& copy) {
  TensorMap map;
  std::memcpy(&map, copy.map, sizeof map);
  const Planes& p = map.planes;
  const uint32_t to = addressIn(copy.shared, copy.to);
  for (int row = 0; row < static_cast<int>(map.boxRows); ++row) {
    const int64_t y = static_cast<int64_t>(copy.row) + row;
    const bool hasRow =
        y >= 0 && y < static_cast<int64_t>(p.rows) && copy.plane >= 0 && copy.plane < static_cast<int64_t>(p.planes);
    const char* from = static_cast<const char*>(p.base) + y * p.rowBytes + copy.plane * p.planeBytes;
    for (int i = 0; i < kTileColumns; ++i) {
      const int64_t x = static_cast<int64_t>(copy.column) + i;
      const bool isInside = hasRow && x >= 0 && x < static_cast<int64_t>(p.columns);
      *elementIn(copy.shared, swizzle128(to + kTileRowBytes * row + 2 * i)) =
          isInside ? reinterpret_cast<const uint16_t*>(from)[x] : uint16_t{0};
    }
  }
}

inline void copyBoxToBlock(int rank, void* shared, const TensorMap& map, PhaseBarrier& barrier, int column, int plane,
                           int row) {
  if (sharedAddress(shared) % kSwizzleBytes != 0) std::abort();
  emulator::BoxCopy copy = {performBox,
                            emulator::sharedOf(rank, emulator::sharedMemory()),
                            emulator::sharedOf(rank, shared),
                            {},
                            column,
                            plane,
                            row,
                            static_cast<int64_t>(map.boxRows) * kTileRowBytes};
  static_assert(sizeof map <= sizeof copy.map);
  std::memcpy(copy.map, &map, sizeof map);
  emulator::queueBox(rank, barrierOf(rank, barrier).state, copy);
}

inline void copyBox(void* shared, const TensorMap& map, PhaseBarrier& barrier, int column, int plane, int row) {
  copyBoxToBlock(clusterRank(), shared, map, barrier, column, plane, row);
}

inline void copyBoxToCluster(void* shared, const TensorMap& map, PhaseBarrier& barrier, int column, int plane, int row,
                             uint16_t ranks) {
  for (int rank = 0; rank < 16; ++rank)
    if (ranks >> rank & 1) copyBoxToBlock(rank, shared, map, barrier, column, plane, row);
}

inline void publishShared() {}

template <int kRegisters>
void takeRegisters() {
  static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256);
}
template <int kRegisters>
void giveRegisters() {
  static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256);
}

// ---- matrices of a warpgroup ----------------------------------------------------------------------------------------

inline void beginProducts() {}
inline void commitProducts() { emulator::commitProducts(); }
/// The warp's lanes go on together: what one of them then tells others is true of all.
template <int kNewest>
void waitForProducts() {
  emulator::waitForProducts(kNewest);
  emulator::waitForWarp();
}

/// One k16 step of a row; NaN where the description is of no operand that this twin knows.
inline void loadLine(float (&line)[kMatrixStep], const MatrixDescription& matrix, int row) {
  const bool isKnown = matrix.swizzle == 1 && matrix.baseOffset == 0;
  for (int k = 0; k < kMatrixStep; ++k)
    line[k] = isKnown ? bf16ToFloat(*sharedElement(elementAddress(matrix, row, k))) : std::nanf("");
}

/// The same of one column of a transposed operand.
inline void loadColumn(float (&line)[kMatrixStep], const MatrixDescription& matrix, int column) {
  const bool isKnown = matrix.swizzle == 1 && matrix.baseOffset == 0;
  for (int k = 0; k < kMatrixStep; ++k)
    line[k] = isKnown ? bf16ToFloat(*sharedElement(transposedAddress(matrix, k, column))) : std::nanf("");
}

/// From the last element to the first, before the sum is added to what was there: unlike mma (ptx.cuh) on purpose, so
/// that a row's bits show which instruction it met.
inline float sumOfProducts(const float (&a)[kMatrixStep], const float (&b)[kMatrixStep]) {
  float sum = 0;
  for (int k = kMatrixStep - 1; k >= 0; --k) sum += a[k] * b[k];
  return sum;
}

/// The thread's share of a step: `load` finds columns of b.
template <int kRegisters, typename Load>
void multiplyRows(const emulator::Product& product, const float (&rows)[2][kMatrixStep], Load load) {
  const MatrixDescription b = readDescription(product.b);
  float column[kMatrixStep];
  for (int i = 0; i < kRegisters; ++i) {
    if (i % 4 >= 2) continue;  // the same columns again, of the row 8 below
    load(column, b, resultColumn(threadIdx.x % kWarpgroup, i));
    for (int row = 0; row < 2; ++row) {
      float& d = product.d[i + 2 * row];
      const float sum = sumOfProducts(rows[row], column);
      d = product.isAdded ? d + sum : sum;
    }
  }
}

template <int kRegisters, typename Load>
void multiplyShared(const emulator::Product& product, Load load) {
  const MatrixDescription a = readDescription(product.a);
  float rows[2][kMatrixStep];
  for (int i = 0; i < 2; ++i) loadLine(rows[i], a, resultRow(threadIdx.x % kWarpgroup, 2 * i));
  multiplyRows<kRegisters>(product, rows, load);
}

template <int kRegisters>
void performProduct(const emulator::Product& product) {
  multiplyShared<kRegisters>(product, loadLine);
}

template <int kRegisters>
void performTransposed(const emulator::Product& product) {
  multiplyShared<kRegisters>(product, loadColumn);
}

template <int kRegisters>
void performHeld(const emulator::Product& product) {
  multiplyRows<kRegisters>(product, product.rows, loadColumn);
}

template <int kRegisters>
void multiplyBf16Async(float (&d)[kRegisters], uint64_t a, uint64_t b, bool isAdded) {
  emulator::queueProduct({performProduct<kRegisters>, d, a, b, isAdded});
}

template <int kRegisters>
void multiplyTransposedAsync(float (&d)[kRegisters], uint64_t a, uint64_t b, bool isAdded) {
  emulator::queueProduct({performTransposed<kRegisters>, d, a, b, isAdded});
}

/// Takes the registers as they are now: that nothing touches them before the wait, ptxas sees to.
template <int kRegisters>
void multiplyTransposedAsync(float (&d)[kRegisters], const uint32_t (&a)[4], uint64_t b, bool isAdded) {
  emulator::Product product = {performHeld<kRegisters>, d, 0, b, isAdded};
  MmaOperands own = {};
  std::memcpy(own.a, a, sizeof own.a);
  emulator::give(&own, sizeof own);
  for (int i = 0; i < 2; ++i) readLine(product.rows[i], emulator::laneIndex() / 4, true, i);
  emulator::queueProduct(product);
}

}  // namespace pagoda::cuda
