// out = activation(gate) * up
#include "activations.h"

namespace pagoda::PAGODA_ISA {

void gatedActivation(const KernelContext& context, const PagodaGatedActivation& op) {
  withActivation(op.activation, [&](auto activation) {
    parallelRows(context.pool, op.out.rows, op.out.width, [&](int32_t row) {
      const float* gates = rowOf(op.gate, row);
      const float* ups = rowOf(op.up, row);
      float* out = rowOf(op.out, row);
      forVectors(op.out.width, [&](int32_t i, int n) {
        storeSome(out + i, activation(loadSome(gates + i, n), loadSome(ups + i, n)), n);
      });
    });
  });
}

}  // namespace pagoda::PAGODA_ISA
