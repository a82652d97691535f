// The experts of a mixture, as grouped products: the rows of each expert are gathered, so that its weights are read
// once for all of them, and nothing is padded.
//
// An assignment is one slot of one row of `route`. Assignments are sorted by expert; position p of that order is row p
// of all intermediate tensors. The panels of a weight (kernels.h) go through all experts, so where the outputs of an
// expert do not fill panels, two experts share one, and each takes its own lanes. Every result is one chain of
// multiply-adds as in `linear`, and slots are added up in order: so the bits of a row do not depend on other rows, nor
// on how many are done in a pass.
#include "activations.h"
#include "packed-rows.h"

namespace pagoda::PAGODA_ISA {
namespace {

constexpr int32_t kMaxAssignments = 4096;  // of a pass: bounds the scratch
constexpr int32_t kMaxBlockRows = 240;     // a multiple of all register blocks

int32_t topK(const PagodaExperts& op) { return op.route.width / 2; }
int32_t hiddenWidth(const PagodaExperts& op) { return op.down.cols; }
int32_t rowsPerPass(const PagodaExperts& op) { return minimum(op.x.rows, maximum(1, kMaxAssignments / topK(op))); }

// ---- memory ----------------------------------------------------------------------------------------

struct Memory {
  int32_t* starts;     // [numExperts + 1], first position of each expert
  int32_t* items;      // [numExperts + 1], first work item of each expert
  int32_t* rows;       // [assignments], the row of a position
  int32_t* positions;  // [assignments], the position of an assignment, slot by slot of each row
  void* packedX;       // as gate wants it
  void* packedXForUp;  // packedX where gate and up are alike
  float* hidden;       // [assignments, hiddenWidth]
  void* packedHidden;  // as down wants it; `hidden` where that is plain
  float* products;     // [assignments, out.width]
  float* sums;         // of each worker two times [kMaxBlockRows, kPanelWidth]
  uint64_t bytes;
};

constexpr int64_t kSumsPerWorker = 2 * static_cast<int64_t>(kMaxBlockRows) * kPanelWidth;

Memory layOut(const PagodaExperts& op, int32_t threads, void* memory) {
  uint64_t offset = 0;
  const auto take = [&](uint64_t bytes) {
    void* start = static_cast<char*>(memory) + offset;
    offset += roundUp(static_cast<int64_t>(bytes), 64);
    return start;
  };
  const int64_t assignments = static_cast<int64_t>(rowsPerPass(op)) * topK(op);
  const auto integers = [&](int64_t count) { return static_cast<int32_t*>(take(sizeof(int32_t) * count)); };
  const auto floats = [&](int64_t count) { return static_cast<float*>(take(sizeof(float) * count)); };
  Memory m;
  m.starts = integers(op.numExperts + 1);
  m.items = integers(op.numExperts + 1);
  m.rows = integers(assignments);
  m.positions = integers(assignments);
  const auto rowsOf = [&](PagodaDtype dtype, int32_t width) {
    return take(packedRowsBytes(dtype, assignments, width));
  };
  m.packedX = rowsOf(op.gate.dtype, op.x.width);
  m.packedXForUp = op.up.dtype == op.gate.dtype ? m.packedX : rowsOf(op.up.dtype, op.x.width);
  m.hidden = floats(assignments * hiddenWidth(op));
  m.packedHidden = packsAsFloats(op.down.dtype) ? m.hidden : rowsOf(op.down.dtype, hiddenWidth(op));
  m.products = floats(assignments * op.out.width);
  m.sums = floats(threads * kSumsPerWorker);
  m.bytes = offset;
  return m;
}

// ---- which rows an expert has ----------------------------------------------------------------------

// The rows [first, first + rows) of one call.
struct Pass {
  const KernelContext& context;
  const PagodaExperts& op;
  const Memory& memory;
  int32_t first;
  int32_t rows;

  int32_t assignments() const { return rows * topK(op); }
  const float* weights(int32_t row) const { return rowOf(op.route, first + row); }
  int32_t expert(int32_t row, int32_t slot) const { return static_cast<int32_t>(weights(row)[topK(op) + slot]); }
  int32_t rowsOfExpert(int32_t expert) const { return memory.starts[expert + 1] - memory.starts[expert]; }
};

template <class Body>
void forAssignments(const Pass& pass, Body body) {
  for (int32_t row = 0; row < pass.rows; ++row) {
    for (int32_t slot = 0; slot < topK(pass.op); ++slot) body(row, slot, pass.expert(row, slot));
  }
}

// Sorts the assignments by expert; those of an expert stay in their order.
void sortByExpert(const Pass& pass) {
  const Memory& m = pass.memory;
  const int32_t numExperts = pass.op.numExperts;
  for (int32_t e = 0; e <= numExperts; ++e) m.starts[e] = 0;
  forAssignments(pass, [&](int32_t, int32_t, int32_t expert) { ++m.starts[expert + 1]; });
  for (int32_t e = 0; e < numExperts; ++e) m.starts[e + 1] += m.starts[e];
  int32_t* next = m.items;  // not needed yet
  for (int32_t e = 0; e < numExperts; ++e) next[e] = m.starts[e];
  forAssignments(pass, [&](int32_t row, int32_t slot, int32_t expert) {
    const int32_t position = next[expert]++;
    m.rows[position] = row;
    m.positions[row * topK(pass.op) + slot] = position;
  });
}

// ---- grouped products ------------------------------------------------------------------------------

// Outputs that a work item computes: some rows of an expert, and the lanes of a panel that are the expert's.
struct Item {
  int32_t position;  // of its first row
  int32_t rows;
  int32_t panel;
  int32_t lane;    // first of the panel
  int32_t weight;  // row of the weight that this lane is
  int32_t output;  // column of the result that this lane is
  int32_t width;   // lanes
};

// How the rows of an expert are cut.
struct RowBlocks {
  int32_t count;
  int32_t size;
};

RowBlocks cutRows(int32_t rows) {
  if (rows == 0) return {0, 0};
  const int32_t count = static_cast<int32_t>(ceilDiv(rows, kMaxBlockRows));
  return {count, static_cast<int32_t>(ceilDiv(rows, count))};
}

// Panels with outputs of an expert that has `outputs` of them.
struct Panels {
  int32_t first;
  int32_t count;
};

Panels panelsOf(int32_t expert, int32_t outputs) {
  const int64_t begin = static_cast<int64_t>(expert) * outputs;
  const int32_t first = static_cast<int32_t>(begin / kPanelWidth);
  return {first, static_cast<int32_t>(ceilDiv(begin + outputs, kPanelWidth)) - first};
}

Item itemOf(const Pass& pass, int32_t outputs, int32_t expert, int32_t index) {
  const int32_t rows = pass.rowsOfExpert(expert);
  const RowBlocks blocks = cutRows(rows);
  const int32_t row = index % blocks.count * blocks.size;
  const int32_t panel = panelsOf(expert, outputs).first + index / blocks.count;
  const int32_t begin = maximum(panel * kPanelWidth, expert * outputs);
  const int32_t end = minimum((panel + 1) * kPanelWidth, (expert + 1) * outputs);
  return {pass.memory.starts[expert] + row,
          minimum(blocks.size, rows - row),
          panel,
          begin % kPanelWidth,
          begin,
          begin - expert * outputs,
          end - begin};
}

// The expert of an item: the last that begins at it or before.
int32_t expertOf(const int32_t* items, int32_t numExperts, int32_t item) {
  int32_t low = 0;
  int32_t high = numExperts;
  while (high - low > 1) {
    const int32_t middle = low + (high - low) / 2;
    if (items[middle] <= item)
      low = middle;
    else
      high = middle;
  }
  return low;
}

// Calls body(item, sums) for all outputs of all experts that have rows; `sums` is memory of the worker. Items of a
// panel follow each other, and an expert's panels.
template <class Body>
void forItems(const Pass& pass, int32_t outputs, Body body) {
  const Memory& m = pass.memory;
  m.items[0] = 0;
  for (int32_t e = 0; e < pass.op.numExperts; ++e) {
    m.items[e + 1] = m.items[e] + cutRows(pass.rowsOfExpert(e)).count * panelsOf(e, outputs).count;
  }
  const int32_t count = m.items[pass.op.numExperts];
  auto range = [&](int32_t begin, int32_t end, int32_t worker) {
    float* sums = m.sums + worker * kSumsPerWorker;
    for (int32_t i = begin; i < end; ++i) {
      const int32_t expert = expertOf(m.items, pass.op.numExperts, i);
      body(itemOf(pass, outputs, expert, i - m.items[expert]), sums);
    }
  };
  parallel(pass.context.pool, count, maximum(1, count / (16 * pass.context.pool->threads())), range);
}

// Calls body(offset, n, product) for the vectors of one row of an item's sums, the bias added.
PAGODA_INLINE f32v product(const float* sums, const float* bias, int32_t i, int n) {
  const f32v v = loadSome(sums + i, n);
  return bias == nullptr ? v : add(v, loadSome(bias + i, n));
}

const float* biasOf(const PagodaWeight& bias, const Item& item) {
  return bias.data == nullptr ? nullptr : static_cast<const float*>(bias.data) + item.weight;
}

// hidden = activation(gate x, up x)
void gateAndUp(const Pass& pass) {
  const PagodaExperts& op = pass.op;
  const Memory& m = pass.memory;
  const int32_t width = hiddenWidth(op);
  const PackedRows x = {m.packedX, pass.assignments(), op.x.width, op.gate.dtype};
  const PackedRows xForUp = {m.packedXForUp, pass.assignments(), op.x.width, op.up.dtype};
  withActivation(op.activation, [&](auto activation) {
    forItems(pass, width, [&](const Item& item, float* gates) {
      float* ups = gates + kSumsPerWorker / 2;
      multiplyPackedPanel(x, item.position, item.rows, op.gate, item.panel, gates);
      multiplyPackedPanel(xForUp, item.position, item.rows, op.up, item.panel, ups);
      const float* gateBias = biasOf(op.gateBias, item);
      const float* upBias = biasOf(op.upBias, item);
      for (int32_t r = 0; r < item.rows; ++r) {
        float* to = m.hidden + static_cast<int64_t>(item.position + r) * width + item.output;
        const int64_t from = static_cast<int64_t>(r) * kPanelWidth + item.lane;
        forVectors(item.width, [&](int32_t i, int n) {
          const f32v gate = product(gates + from, gateBias, i, n);
          storeSome(to + i, activation(gate, product(ups + from, upBias, i, n)), n);
        });
      }
    });
  });
}

// products = down hidden
void multiplyDown(const Pass& pass) {
  const PagodaExperts& op = pass.op;
  const Memory& m = pass.memory;
  const PackedRows hidden = {m.packedHidden, pass.assignments(), hiddenWidth(op), op.down.dtype};
  forItems(pass, op.out.width, [&](const Item& item, float* sums) {
    multiplyPackedPanel(hidden, item.position, item.rows, op.down, item.panel, sums);
    const float* bias = biasOf(op.downBias, item);
    for (int32_t r = 0; r < item.rows; ++r) {
      float* to = m.products + static_cast<int64_t>(item.position + r) * op.out.width + item.output;
      const int64_t from = static_cast<int64_t>(r) * kPanelWidth + item.lane;
      forVectors(item.width, [&](int32_t i, int n) { storeSome(to + i, product(sums + from, bias, i, n), n); });
    }
  });
}

// ---- before, between and behind the products --------------------------------------------------------

void gatherRows(const Pass& pass) {
  const PagodaExperts& op = pass.op;
  const Memory& m = pass.memory;
  const PackedRows x = {m.packedX, pass.assignments(), op.x.width, op.gate.dtype};
  const PackedRows xForUp = {m.packedXForUp, pass.assignments(), op.x.width, op.up.dtype};
  parallelRows(pass.context.pool, pass.assignments(), op.x.width, [&](int32_t position) {
    const float* row = rowOf(op.x, pass.first + m.rows[position]);
    packRow(x, position, row);
    if (xForUp.data != x.data) packRow(xForUp, position, row);
  });
}

void packHidden(const Pass& pass) {
  const Memory& m = pass.memory;
  if (m.packedHidden == m.hidden) return;
  const int32_t width = hiddenWidth(pass.op);
  const PackedRows to = {m.packedHidden, pass.assignments(), width, pass.op.down.dtype};
  parallelRows(pass.context.pool, pass.assignments(), width,
               [&](int32_t position) { packRow(to, position, m.hidden + static_cast<int64_t>(position) * width); });
}

// out = sum of weight * product over the slots, in order
void combine(const Pass& pass) {
  const PagodaExperts& op = pass.op;
  const int32_t slots = topK(op);
  parallelRows(pass.context.pool, pass.rows, static_cast<int64_t>(op.out.width) * slots, [&](int32_t row) {
    const float* weights = pass.weights(row);
    const int32_t* positions = pass.memory.positions + row * slots;
    float* out = rowOf(op.out, pass.first + row);
    forVectors(op.out.width, [&](int32_t i, int n) {
      f32v total = zero();
      for (int32_t slot = 0; slot < slots; ++slot) {
        const float* from = pass.memory.products + static_cast<int64_t>(positions[slot]) * op.out.width;
        total = fma(broadcast(weights[slot]), loadSome(from + i, n), total);
      }
      storeSome(out + i, total, n);
    });
  });
}

}  // namespace

uint64_t expertsScratch(const PagodaExperts& op, int32_t threads) {
  return op.x.rows == 0 ? 0 : layOut(op, threads, nullptr).bytes;
}

void experts(const KernelContext& context, const PagodaExperts& op) {
  if (op.x.rows == 0) return;
  const Memory memory = layOut(op, context.pool->threads(), context.scratch);
  const int32_t step = rowsPerPass(op);
  for (int32_t first = 0; first < op.x.rows; first += step) {
    const Pass pass = {context, op, memory, first, minimum(step, op.x.rows - first)};
    sortByExpert(pass);
    gatherRows(pass);
    gateAndUp(pass);
    packHidden(pass);
    multiplyDown(pass);
    combine(pass);
  }
}

}  // namespace pagoda::PAGODA_ISA
