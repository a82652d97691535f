// Instructions that CUDA C++ has no name for. The tests have a twin of this file that computes the same on the CPU
// (native/test/cuda-emulator), so no other source holds assembly. PTX ISA 8: sections in brackets.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace pagoda::cuda {

// ---- numbers: bf16 and f16 are held as their bits [cvt] ------------------------------------------------------------

__device__ __forceinline__ uint16_t toBf16(float x) {
  uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}

__device__ __forceinline__ uint16_t toHalf(float x) {
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}

__device__ __forceinline__ float fromHalf(uint16_t bits) {
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
  return x;
}

__device__ __forceinline__ uint32_t packBf16(float low, float high) {
  uint32_t bits;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
}

/// 2^x to about 2 units in the last place; 2^-Inf is 0.
__device__ __forceinline__ float exp2Approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// ---- barriers of some of a block's threads: ids 1 to 15 [barrier]
// ----------------------------------------------------

__device__ __forceinline__ void barrierSync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

__device__ __forceinline__ void barrierArrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// ---- copies to shared memory in the background, in groups [cp.async]
// -------------------------------------------------

__device__ __forceinline__ uint32_t sharedAddress(const void* address) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(address));
}

/// 16 bytes, both addresses aligned to 16: the first `bytes` from `global`, then zeros.
__device__ __forceinline__ void copyAsync16(void* shared, const void* global, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(sharedAddress(shared)), "l"(global), "r"(bytes)
               : "memory");
}

/// 4 bytes, both addresses aligned to 4: of `global`, or zeros where `bytes` is 0.
__device__ __forceinline__ void copyAsync4(void* shared, const void* global, int bytes) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(sharedAddress(shared)), "l"(global), "r"(bytes)
               : "memory");
}

__device__ __forceinline__ void commitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/// Waits for all groups of this thread but the newest ones.
template <int kNewest>
__device__ __forceinline__ void waitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kNewest) : "memory");
}

// ---- matrices of a warp [mma, ldmatrix]
// ------------------------------------------------------------------------------ m16n8k16: lane l holds of a [16, 16]
// rows l / 4 and + 8, of b [16, 8] column l / 4, of d [16, 8] rows l / 4 and + 8.
//   a[0..3]  columns 2 (l % 4) + {0, 1} of row l / 4, of row + 8, then + 8 columns of both
//   b[0..1]  rows 2 (l % 4) + {0, 1}, then + 8 rows
//   d[0..3]  columns 2 (l % 4) + {0, 1} of row l / 4, then of row + 8

__device__ __forceinline__ void mmaBf16(float* d, const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// Four 8x8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8 and gets elements
/// 2 (l % 4) + {0, 1} of row l / 4 of each.
__device__ __forceinline__ void ldmatrix(uint32_t (&d)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(sharedAddress(row))
               : "memory");
}

/// The same of the transposed matrices.
__device__ __forceinline__ void ldmatrixTransposed(uint32_t (&d)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(sharedAddress(row))
               : "memory");
}

}  // namespace pagoda::cuda
