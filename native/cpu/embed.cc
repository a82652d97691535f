// out[t] = table[tokenIds[t]] * scale
#include "bf16.h"
#include "isa-kernels.h"

namespace pagoda::PAGODA_ISA {
namespace {

template <class Element>
void scaleRow(const Element* row, int32_t width, float scale, float* out) {
  forVectors(width, [&](int32_t i, int n) { storeSome(out + i, mul(loadSome(row + i, n), broadcast(scale)), n); });
}

// A row of a packed matrix lies panelWidth elements (or pairs) apart.
void scaleMatrixRow(const PagodaWeight& matrix, int32_t row, float scale, float* out) {
  for (int32_t col = 0; col < matrix.cols; ++col) {
    const int64_t i = matrixIndex(matrix, kPanelWidth, row, col);
    const float value = matrix.dtype == PAGODA_BF16 ? bf16ToFloat(static_cast<const uint16_t*>(matrix.data)[i])
                                                    : static_cast<const float*>(matrix.data)[i];
    out[col] = value * scale;
  }
}

}  // namespace

void embed(const KernelContext& context, const PagodaEmbed& op) {
  const PagodaWeight& table = op.table;
  parallelRows(context.pool, op.out.rows, table.cols, [&](int32_t t) {
    const int32_t row = op.tokenIds[t];
    const int64_t start = static_cast<int64_t>(row) * table.cols;
    float* out = rowOf(op.out, t);
    if (table.kind == PAGODA_MATRIX) {
      scaleMatrixRow(table, row, op.scale, out);
    } else if (table.dtype == PAGODA_BF16) {
      scaleRow(static_cast<const uint16_t*>(table.data) + start, table.cols, op.scale, out);
    } else {
      scaleRow(static_cast<const float*>(table.data) + start, table.cols, op.scale, out);
    }
  });
}

}  // namespace pagoda::PAGODA_ISA
