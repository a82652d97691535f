// out = a + b
#include "isa-kernels.h"

namespace pagoda::PAGODA_ISA {

void add(const KernelContext& context, const PagodaAdd& op) {
  parallelRows(context.pool, op.out.rows, op.out.width, [&](int32_t row) {
    const float* a = rowOf(op.a, row);
    const float* b = rowOf(op.b, row);
    float* out = rowOf(op.out, row);
    forVectors(op.out.width,
               [&](int32_t i, int n) { storeSome(out + i, add(loadSome(a + i, n), loadSome(b + i, n)), n); });
  });
}

}  // namespace pagoda::PAGODA_ISA
