// Experts: sorts the slots of all rows by expert, then three products over the tiles of each expert, then the weighted
// sum of a row's slots, in order.
#include "activations.cuh"
#include "product.cuh"

namespace pagoda::cuda {
namespace {

constexpr int kThreads = 256;

/// Where slots lie once they are sorted. A slot of a row is numbered row * topK + slot.
struct Sorting {
  PagodaTensor route;
  int32_t numExperts;
  int32_t tileRows;
  int32_t* offsets;   // [numExperts + 1], first sorted slot of each expert
  int32_t* sorted;    // [rows * topK], sorted slot of each slot
  int32_t* rowOf;     // [rows * topK], row of each sorted slot
  RowTile* tiles;     // [maxTiles]
  int32_t* numTiles;  // [1]

  __device__ int topK() const { return route.width / 2; }
  __device__ int slots() const { return route.rows * topK(); }
  __device__ int expertOf(int slot) const {
    return static_cast<int>(cuda::rowOf(route, slot / topK())[topK() + slot % topK()]);
  }
};

struct SortShared {
  int32_t partial[kThreads / kWarp];
  int32_t counts[kThreads / kWarp];
};

/// One block an expert: how many slots belong to those before it, then where its own go, in order.
__global__ void __launch_bounds__(kThreads) sortKernel(const Sorting s) {
  auto& shared = sharedMemory<SortShared>();
  const int expert = blockIdx.x, slots = s.slots();
  int before = 0;
  for (int slot = threadIdx.x; slot < slots; slot += kThreads) before += s.expertOf(slot) < expert ? 1 : 0;
  int next = blockReduce(before, shared.partial, [](int a, int b) { return a + b; });
  if (threadIdx.x == 0) s.offsets[expert] = next;
  for (int start = 0; start < slots; start += kThreads) {
    const int slot = start + threadIdx.x;
    const bool isOwn = slot < slots && s.expertOf(slot) == expert;
    const unsigned votes = __ballot_sync(kAllLanes, isOwn);
    if (laneOf() == 0) shared.counts[warpOf()] = __popc(votes);
    __syncthreads();
    int at = next + __popc(votes & ((1u << laneOf()) - 1));
    for (int warp = 0; warp < kThreads / kWarp; ++warp) {
      if (warp < warpOf()) at += shared.counts[warp];
      next += shared.counts[warp];
    }
    if (isOwn) {
      s.sorted[slot] = at;
      s.rowOf[at] = slot / s.topK();
    }
    __syncthreads();
  }
  if (expert == s.numExperts - 1 && threadIdx.x == 0) s.offsets[s.numExperts] = next;
}

/// Cuts the slots of each expert into tiles. One block.
__global__ void __launch_bounds__(kThreads) tileKernel(const Sorting s) {
  auto& shared = sharedMemory<SortShared>();
  int done = 0;  // tiles of the experts before
  for (int start = 0; start < s.numExperts; start += kThreads) {
    const int expert = start + threadIdx.x;
    const int begin = expert < s.numExperts ? s.offsets[expert] : 0;
    const int count = expert < s.numExperts ? s.offsets[expert + 1] - begin : 0;
    const int tiles = static_cast<int>(ceilDivide(count, s.tileRows));
    int through = tiles;  // of this warp, up to this lane
    for (int lanes = 1; lanes < kWarp; lanes *= 2) {
      const int other = __shfl_up_sync(kAllLanes, through, lanes);
      if (laneOf() >= lanes) through += other;
    }
    if (laneOf() == kWarp - 1) shared.counts[warpOf()] = through;
    __syncthreads();
    int first = done + through - tiles;
    for (int warp = 0; warp < kThreads / kWarp; ++warp) {
      if (warp < warpOf()) first += shared.counts[warp];
      done += shared.counts[warp];
    }
    for (int i = 0; i < tiles; ++i)
      s.tiles[first + i] = {expert, begin + i * s.tileRows, min(s.tileRows, count - i * s.tileRows)};
    __syncthreads();
  }
  if (threadIdx.x == 0) *s.numTiles = done;
}

struct Combination {
  PagodaTensor out;
  PagodaTensor route;
  const int32_t* sorted;  // [rows * topK]
  const float* results;   // [slots, out.width]
};

__global__ void __launch_bounds__(kRowThreads) combineKernel(const Combination c) {
  const int topK = c.route.width / 2;
  const float* weights = rowOf(c.route, blockIdx.x);
  const int32_t* sorted = c.sorted + static_cast<int64_t>(blockIdx.x) * topK;
  float* out = rowOf(c.out, blockIdx.x);
  forColumns(c.out.width, [&](int i) {
    float sum = 0.0f;
    for (int slot = 0; slot < topK; ++slot)
      sum = fmaf(weights[slot], c.results[static_cast<int64_t>(sorted[slot]) * c.out.width + i], sum);
    out[i] = sum;
  });
}

/// Scratch of one call, parts aligned to 256 bytes.
struct Buffers {
  Sorting sorting;
  float* gate;    // [slots, I], then the hidden values
  float* up;      // [slots, I]
  float* result;  // [slots, N]
};

struct Parts {
  uint8_t* base;
  uint64_t bytes = 0;

  template <typename T>
  T* take(int64_t count) {
    T* at = reinterpret_cast<T*>(base + bytes);
    bytes += roundUp(count * sizeof(T), 256);
    return at;
  }
};

int64_t maxTiles(int64_t slots, int32_t numExperts, int32_t tileRows) {
  return (slots < numExperts ? slots : numExperts) + slots / tileRows;
}

Buffers layOut(const PagodaExperts& op, Parts& parts) {
  const int64_t slots = static_cast<int64_t>(op.route.rows) * (op.route.width / 2);
  const int32_t rows = chooseTileRows(op.gate.dtype, slots, op.numExperts);
  Buffers buffers = {};
  buffers.sorting = {op.route,
                     op.numExperts,
                     rows,
                     parts.take<int32_t>(op.numExperts + 1),
                     parts.take<int32_t>(slots),
                     parts.take<int32_t>(slots),
                     parts.take<RowTile>(maxTiles(slots, op.numExperts, rows)),
                     parts.take<int32_t>(1)};
  buffers.gate = parts.take<float>(slots * op.down.cols);
  buffers.up = parts.take<float>(slots * op.down.cols);
  buffers.result = parts.take<float>(slots * op.out.width);
  return buffers;
}

PagodaStatus sortSlots(PagodaDevice* device, const Sorting& sorting, PagodaError* error) {
  const LaunchShape shape = {dim3(sorting.numExperts), dim3(kThreads), sizeof(SortShared)};
  if (const PagodaStatus status = check(launch(sortKernel, shape, device->stream, sorting), "experts", error))
    return status;
  const LaunchShape one = {dim3(1), dim3(kThreads), sizeof(SortShared)};
  return check(launch(tileKernel, one, device->stream, sorting), "experts", error);
}

/// A product over the sorted slots. `x` has a row for each slot, or, with `rowOfSlot`, one for several.
Product product(const PagodaWeight& weight, const PagodaWeight& bias, int32_t numExperts, const Sorting& sorting,
                int32_t slots) {
  return {
      .weight = static_cast<const uint8_t*>(weight.data),
      .dtype = weight.dtype,
      .rowBytes = weightRowBytes(weight.dtype, weight.cols),
      .bias = static_cast<const float*>(bias.data),
      .x = nullptr,
      .xStride = weight.cols,
      .xRows = slots,
      .out = nullptr,
      .outStride = weight.rows / numExperts,
      .inputs = weight.cols,
      .outputs = weight.rows / numExperts,
      .slots = slots,
      .tileRows = sorting.tileRows,
      .rowOfSlot = nullptr,
      .tiles = sorting.tiles,
      .numTiles = sorting.numTiles,
      .maxTiles = static_cast<int32_t>(maxTiles(slots, numExperts, sorting.tileRows)),
      .matrices = numExperts,
  };
}

/// gate = activation(x * gate, x * up), a row for each sorted slot.
PagodaStatus runHidden(PagodaDevice* device, const PagodaExperts& op, const Buffers& buffers, int32_t slots,
                       PagodaError* error) {
  const auto run = [&](const PagodaWeight& weight, const PagodaWeight& bias, float* out) {
    Product p = product(weight, bias, op.numExperts, buffers.sorting, slots);
    p.x = static_cast<const float*>(op.x.data);
    p.xStride = op.x.rowStride;
    p.xRows = op.x.rows;
    p.rowOfSlot = buffers.sorting.rowOf;
    p.out = out;
    return multiply(device, p, "experts", error);
  };
  if (const PagodaStatus status = run(op.gate, op.gateBias, buffers.gate)) return status;
  if (const PagodaStatus status = run(op.up, op.upBias, buffers.up)) return status;
  const auto tensor = [&](float* data) { return PagodaTensor{data, slots, op.down.cols, op.down.cols, PAGODA_F32}; };
  const PagodaGatedActivation activation = {tensor(buffers.gate), tensor(buffers.gate), tensor(buffers.up),
                                            op.activation};
  return gatedActivation(device, &activation, error);
}

PagodaStatus runExperts(PagodaDevice* device, const PagodaExperts& op, const Buffers& buffers, PagodaError* error) {
  const int32_t slots = op.route.rows * (op.route.width / 2);
  if (const PagodaStatus status = sortSlots(device, buffers.sorting, error)) return status;
  if (const PagodaStatus status = runHidden(device, op, buffers, slots, error)) return status;
  Product down = product(op.down, op.downBias, op.numExperts, buffers.sorting, slots);
  down.x = buffers.gate;
  down.out = buffers.result;
  if (const PagodaStatus status = multiply(device, down, "experts", error)) return status;
  const Combination combination = {op.out, op.route, buffers.sorting.sorted, buffers.result};
  return launchRows(device, combineKernel, combination, op.out.rows, op.out.width, "experts", error);
}

}  // namespace

PagodaStatus experts(PagodaDevice* device, const PagodaExperts* op, PagodaError* error) {
  if (const PagodaStatus status = requireF32(error, op->out, op->x, op->route)) return status;
  if (op->gate.dtype != op->up.dtype || op->gate.dtype != op->down.dtype)
    return fail(PAGODA_UNSUPPORTED, "The CUDA backend takes experts whose matrices are of one dtype", error);
  if (op->out.rows == 0) return PAGODA_OK;
  Parts measure = {nullptr};
  layOut(*op, measure);
  void* memory = nullptr;
  if (const PagodaStatus status = device->scratch.reserve(device->stream, measure.bytes, &memory, error)) return status;
  Parts parts = {static_cast<uint8_t*>(memory)};
  return runExperts(device, *op, layOut(*op, parts), error);
}

}  // namespace pagoda::cuda
