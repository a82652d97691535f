// multiplyBf16Async(d, a, b, isAdded): d [64, 2 * registers] = a [64, 16] * b [N, 16]^T, added to d where `isAdded`.
// multiplyTransposedAsync(d, a, b, isAdded): the same of b [16, N], described as transposed; a is in shared memory,
// too, or in registers, as mma takes it (ptx.cuh), which nothing may touch before the wait, either. Included by
// hopper.cuh: one function for each number of columns.
#define PAGODA_NAMES_8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define PAGODA_NAMES_32                                                                                       \
  PAGODA_NAMES_8                                                                                              \
  ", %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, " \
  "%29, %30, %31"
#define PAGODA_NAMES_64                                                                                              \
  PAGODA_NAMES_32                                                                                                    \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, " \
  "%54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define PAGODA_NAMES_128                                                                                             \
  PAGODA_NAMES_64                                                                                                    \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, " \
  "%86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, " \
  "%107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, "     \
  "%125, %126, %127"

#define PAGODA_D8(i)                                                                                          \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
      "+f"(d[i + 7])
#define PAGODA_D32(i) PAGODA_D8(i), PAGODA_D8(i + 8), PAGODA_D8(i + 16), PAGODA_D8(i + 24)
#define PAGODA_D64(i) PAGODA_D32(i), PAGODA_D32(i + 32)
#define PAGODA_D128(i) PAGODA_D64(i), PAGODA_D64(i + 64)

#define PAGODA_WGMMA(columns, registers, a, b, isAdded)                                                       \
  __device__ __forceinline__ void multiplyBf16Async(float(&d)[registers], uint64_t aMatrix, uint64_t bMatrix, \
                                                    bool added) {                                             \
    asm volatile("{.reg .pred p; setp.ne.b32 p, %" #isAdded ", 0; wgmma.mma_async.sync.aligned.m64n" #columns \
                 "k16.f32.bf16.bf16 {" PAGODA_NAMES_##registers "}, %" #a ", %" #b ", p, 1, 1, 0, 0;}"        \
                 : PAGODA_D##registers(0)                                                                     \
                 : "l"(aMatrix), "l"(bMatrix), "r"(static_cast<int>(added)));                                 \
  }

PAGODA_WGMMA(16, 8, 8, 9, 10)
PAGODA_WGMMA(64, 32, 32, 33, 34)
PAGODA_WGMMA(128, 64, 64, 65, 66)
PAGODA_WGMMA(256, 128, 128, 129, 130)

#define PAGODA_WGMMA_TRANSPOSED(columns, registers, a, b, isAdded)                                                  \
  __device__ __forceinline__ void multiplyTransposedAsync(float(&d)[registers], uint64_t aMatrix, uint64_t bMatrix, \
                                                          bool added) {                                             \
    asm volatile("{.reg .pred p; setp.ne.b32 p, %" #isAdded ", 0; wgmma.mma_async.sync.aligned.m64n" #columns       \
                 "k16.f32.bf16.bf16 {" PAGODA_NAMES_##registers "}, %" #a ", %" #b ", p, 1, 1, 0, 1;}"              \
                 : PAGODA_D##registers(0)                                                                           \
                 : "l"(aMatrix), "l"(bMatrix), "r"(static_cast<int>(added)));                                       \
  }

#define PAGODA_WGMMA_HELD(columns, registers, a0, a1, a2, a3, b, isAdded)                                           \
  __device__ __forceinline__ void multiplyTransposedAsync(float(&d)[registers], const uint32_t(&a)[4],              \
                                                          uint64_t bMatrix, bool added) {                           \
    asm volatile("{.reg .pred p; setp.ne.b32 p, %" #isAdded ", 0; wgmma.mma_async.sync.aligned.m64n" #columns       \
                 "k16.f32.bf16.bf16 {" PAGODA_NAMES_##registers "}, {%" #a0 ", %" #a1 ", %" #a2 ", %" #a3 "}, %" #b \
                                                                ", p, 1, 1, 1;}"                                    \
                 : PAGODA_D##registers(0)                                                                           \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(bMatrix), "r"(static_cast<int>(added)));         \
  }

PAGODA_WGMMA_TRANSPOSED(256, 128, 128, 129, 130)
PAGODA_WGMMA_HELD(64, 32, 32, 33, 34, 35, 36, 37)
PAGODA_WGMMA_HELD(128, 64, 64, 65, 66, 67, 68, 69)
PAGODA_WGMMA_HELD(256, 128, 128, 129, 130, 131, 132, 133)

#undef PAGODA_WGMMA
#undef PAGODA_WGMMA_TRANSPOSED
#undef PAGODA_WGMMA_HELD
#undef PAGODA_D8
#undef PAGODA_D32
#undef PAGODA_D64
#undef PAGODA_D128
#undef PAGODA_NAMES_8
#undef PAGODA_NAMES_32
#undef PAGODA_NAMES_64
#undef PAGODA_NAMES_128
