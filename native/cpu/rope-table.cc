// angle = (float)position * frequency[i] in f32; out[t] = [cos(angle) * scaling | sin(angle) * scaling]. Sine and
// cosine are those of libm in double, once a step: a vector version would lose exactness at large positions for no time
// worth having.
#include "rope-table.h"

#include <cmath>

#include "threads.h"

namespace pagoda {
namespace {

void fillRow(const PagodaRopeTable& op, int32_t row) {
  const int32_t half = op.out.width / 2;
  const float* frequency = static_cast<const float*>(op.frequency.data);
  float* out = static_cast<float*>(op.out.data) + row * op.out.rowStride;
  const float position = static_cast<float>(op.positions[row]);
  for (int32_t i = 0; i < half; ++i) {
    const double angle = static_cast<double>(position * frequency[i]);
    out[i] = static_cast<float>(std::cos(angle) * static_cast<double>(op.scaling));
    out[half + i] = static_cast<float>(std::sin(angle) * static_cast<double>(op.scaling));
  }
}

}  // namespace

void ropeTable(ThreadPool& pool, const PagodaRopeTable& op) {
  auto body = [](void* context, int32_t begin, int32_t end, int32_t) {
    for (int32_t row = begin; row < end; ++row) fillRow(*static_cast<const PagodaRopeTable*>(context), row);
  };
  pool.run(op.out.rows, 16, body, const_cast<PagodaRopeTable*>(&op));
}

}  // namespace pagoda
