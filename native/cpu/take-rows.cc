// out[s] = x[rows[s]]
#include "isa-kernels.h"

namespace pagoda::PAGODA_ISA {

void takeRows(const KernelContext& context, const PagodaTakeRows& op) {
  parallelRows(context.pool, op.out.rows, op.out.width, [&](int32_t row) {
    const size_t bytes = sizeof(float) * static_cast<size_t>(op.out.width);
    __builtin_memcpy(rowOf(op.out, row), rowOf(op.x, op.rows[row]), bytes);
  });
}

}  // namespace pagoda::PAGODA_ISA
