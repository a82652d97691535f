// The best experts of each row. One block a row; the choice is made by topK passes over the experts, since both are
// few.
#include "kernel.cuh"

namespace pagoda::cuda {
namespace {

constexpr int kThreads = 128;

/// An index and what it is chosen by.
struct Best {
  float key;
  int32_t index;  // -1: none
};

/// Larger first, NaN before all, then the lowest index.
__device__ __forceinline__ Best better(Best a, Best b) {
  if (a.index < 0) return b;
  if (b.index < 0) return a;
  const bool nanA = a.key != a.key, nanB = b.key != b.key;
  if (nanA != nanB) return nanA ? a : b;
  if (!nanA && a.key != b.key) return a.key > b.key ? a : b;
  return a.index < b.index ? a : b;
}

/// A warp may combine values of 4 bytes only, so a Best travels in two shuffles.
__device__ Best blockBest(Best value, Best* partial) {
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
    const Best other = {__shfl_xor_sync(kAllLanes, value.key, lanes), __shfl_xor_sync(kAllLanes, value.index, lanes)};
    value = better(value, other);
  }
  if (laneOf() == 0) partial[warpOf()] = value;
  __syncthreads();
  Best result = partial[0];
  for (int warp = 1; warp < kThreads / kWarp; ++warp) result = better(result, partial[warp]);
  __syncthreads();
  return result;
}

/// Shared memory of a row of E experts in G groups.
struct Memory {
  float* scores;  // [E]
  float* keys;    // [E]
  float* groups;  // [G]
  uint8_t* open;  // [E], whether an expert may still be chosen
  uint8_t* openGroups;
  Best* best;
  float* partial;

  static __host__ __device__ int64_t bytes(int experts, int groups) {
    return sizeof(Best) * kThreads / kWarp + sizeof(float) * (kThreads / kWarp + 2 * experts + groups) + experts +
           groups;
  }

  __device__ Memory(uint8_t* base, int experts, int numGroups) {
    best = reinterpret_cast<Best*>(base);
    partial = reinterpret_cast<float*>(best + kThreads / kWarp);
    scores = partial + kThreads / kWarp;
    keys = scores + experts;
    groups = keys + experts;
    open = reinterpret_cast<uint8_t*>(groups + numGroups);
    openGroups = open + experts;
  }
};

__device__ __forceinline__ float addOf(float a, float b) { return a + b; }

/// NaN is not larger than anything, so a row with one has NaN where its exponential is.
__device__ void scoreRow(const PagodaRoute& op, const float* logits, const Memory& memory) {
  const int experts = op.logits.width;
  if (op.scoring == PAGODA_SIGMOID) {
    for (int e = threadIdx.x; e < experts; e += kThreads) memory.scores[e] = 1.0f / (1.0f + expf(-logits[e]));
    return;
  }
  float largest = -kInfinity;
  for (int e = threadIdx.x; e < experts; e += kThreads) largest = logits[e] > largest ? logits[e] : largest;
  largest = blockReduce(largest, memory.partial, [](float a, float b) { return a > b ? a : b; });
  float sum = 0.0f;
  for (int e = threadIdx.x; e < experts; e += kThreads) {
    memory.scores[e] = expf(logits[e] - largest);
    sum += memory.scores[e];
  }
  sum = blockReduce(sum, memory.partial, addOf);
  for (int e = threadIdx.x; e < experts; e += kThreads) memory.scores[e] /= sum;
}

/// The largest key of a group, or the sum of its two largest.
__device__ float groupScore(const PagodaRoute& op, const float* keys, int size) {
  Best first = {0.0f, -1}, second = {0.0f, -1};
  for (int e = 0; e < size; ++e) {
    const Best candidate = {keys[e], e};
    if (better(candidate, first).index == e) {
      second = first;
      first = candidate;
    } else {
      second = better(second, candidate);
    }
  }
  if (op.groupScore == PAGODA_GROUP_TOP2_SUM && second.index >= 0) return first.key + second.key;
  return first.key;
}

/// Takes the best of those that are open, and closes it.
__device__ Best takeBest(const float* keys, uint8_t* open, int count, Best* partial) {
  Best best = {0.0f, -1};
  for (int i = threadIdx.x; i < count; i += kThreads) {
    if (open[i]) best = better(best, {keys[i], i});
  }
  best = blockBest(best, partial);
  if (threadIdx.x == 0) open[best.index] = 0;
  __syncthreads();
  return best;
}

/// Opens the experts of the best groups.
__device__ void openExperts(const PagodaRoute& op, const Memory& memory) {
  const int experts = op.logits.width, size = experts / op.numGroups;
  const bool hasGroups = op.topGroups < op.numGroups;
  for (int e = threadIdx.x; e < experts; e += kThreads) memory.open[e] = hasGroups ? 0 : 1;
  if (!hasGroups) return __syncthreads();
  for (int g = threadIdx.x; g < op.numGroups; g += kThreads) {
    memory.groups[g] = groupScore(op, memory.keys + g * size, size);
    memory.openGroups[g] = 1;
  }
  __syncthreads();
  for (int i = 0; i < op.topGroups; ++i) {
    const Best group = takeBest(memory.groups, memory.openGroups, op.numGroups, memory.best);
    for (int e = threadIdx.x; e < size; e += kThreads) memory.open[group.index * size + e] = 1;
  }
  __syncthreads();
}

__global__ void __launch_bounds__(kThreads) routeKernel(const PagodaRoute op) {
  const int experts = op.logits.width;
  const Memory memory(&sharedMemory<uint8_t>(), experts, op.numGroups);
  scoreRow(op, rowOf(op.logits, blockIdx.x), memory);
  __syncthreads();
  for (int e = threadIdx.x; e < experts; e += kThreads)
    memory.keys[e] = memory.scores[e] + (op.bias.data == nullptr ? 0.0f : vectorOf(op.bias)[e]);
  __syncthreads();
  openExperts(op, memory);
  float* out = rowOf(op.out, blockIdx.x);
  float sum = 0.0f;
  for (int slot = 0; slot < op.topK; ++slot) {
    const Best expert = takeBest(memory.keys, memory.open, experts, memory.best);
    sum += memory.scores[expert.index];
    if (threadIdx.x == 0) out[op.topK + slot] = static_cast<float>(expert.index);
  }
  const float divisor = op.normalize ? sum + 1e-20f : 1.0f;
  __syncthreads();
  for (int slot = threadIdx.x; slot < op.topK; slot += kThreads)
    out[slot] = memory.scores[static_cast<int>(out[op.topK + slot])] / divisor * op.scale;
}

}  // namespace

PagodaStatus route(PagodaDevice* device, const PagodaRoute* op, PagodaError* error) {
  constexpr int kMaxExperts = 4096;
  if (const PagodaStatus status = requireF32(error, op->out, op->logits)) return status;
  if (op->logits.width > kMaxExperts) return fail(PAGODA_UNSUPPORTED, "Expected at most 4096 experts", error);
  if (op->numGroups < 1 || op->logits.width % op->numGroups != 0 || op->topGroups < 1 || op->topK < 1 ||
      op->topK > op->logits.width / op->numGroups * op->topGroups)
    return fail(PAGODA_INVALID, "Expected groups that divide the experts and hold `topK` of them", error);
  if (op->out.rows == 0) return PAGODA_OK;
  const auto bytes = static_cast<size_t>(Memory::bytes(op->logits.width, op->numGroups));
  const LaunchShape shape = {dim3(op->out.rows), dim3(kThreads), bytes};
  return check(launch(routeKernel, shape, device->stream, *op), "route", error);
}

}  // namespace pagoda::cuda
