// Merges what the splits of each row found, in order. A warp takes a row.
#include "attention.cuh"

namespace pagoda::cuda {
namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads) combineSplitsKernel(const Combining c) {
  const PagodaAttention& op = c.op;
  const int64_t rows = static_cast<int64_t>(op.out.rows) * op.numHeads;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + warpOf();
  if (row >= rows) return;
  const int head = static_cast<int>(row % op.numHeads), token = static_cast<int>(row / op.numHeads);
  const int request = requestOf(op.batch, token), dim = valueDim(op.cache);
  const int position = op.batch.seqLens[request] - (op.batch.queryStartLoc[request + 1] - token);
  const SplitRange splits = splitsSeen(position, op.slidingWindow, c.splitKeys);
  float* out = rowOf(op.out, token) + static_cast<int64_t>(head) * dim;
  combineRow(c.partials, row, rows, splits, dim, sinkOf(op.sinks, head), out);
}

__global__ void __launch_bounds__(kWarp) combineDecodeKernel(const DecodeCombining c) {
  const PagodaAttention& op = c.op;
  const int request = blockIdx.x / c.rows, row = blockIdx.x % c.rows, kvHead = blockIdx.y;
  const int packed = packedRows(op, request);
  if (row >= packed || packed > c.rows) return;
  const int group = op.numHeads / op.cache.numKvHeads, head = kvHead * group + row % group;
  const int firstToken = op.batch.queryStartLoc[request], token = row / group;
  const int position = op.batch.seqLens[request] - packed / group + token;
  const SplitRange splits = splitsSeen(position, op.slidingWindow, c.splitKeys);
  const int dim = op.cache.headDim;
  const int64_t heads = op.cache.numKvHeads, index = (request * heads + kvHead) * c.rows + row;
  float* out = rowOf(op.out, firstToken + token) + static_cast<int64_t>(head) * dim;
  combineRow(c.partials, index, op.batch.numRequests * heads * c.rows, splits, dim, sinkOf(op.sinks, head), out);
}

}  // namespace

PagodaStatus reservePartials(PagodaDevice* device, int32_t splits, int64_t rows, int32_t dim, Partials* partials,
                             PagodaError* error) {
  const uint64_t count = static_cast<uint64_t>(splits) * rows;
  void* memory = nullptr;
  const uint64_t bytes = count * (dim * sizeof(float) + sizeof(SoftmaxState));
  if (const PagodaStatus status = device->scratch.reserve(device->stream, bytes, &memory, error)) return status;
  auto* sums = static_cast<float*>(memory);
  *partials = {sums, reinterpret_cast<SoftmaxState*>(sums + count * dim)};
  return PAGODA_OK;
}

PagodaStatus combineSplits(PagodaDevice* device, const Combining& combining, PagodaError* error) {
  const int64_t rows = static_cast<int64_t>(combining.op.out.rows) * combining.op.numHeads;
  const LaunchShape shape = {dim3(static_cast<unsigned>(ceilDivide(rows, kThreads / kWarp))), dim3(kThreads)};
  return check(launch(combineSplitsKernel, shape, device->stream, combining), "attention", error);
}

PagodaStatus combineDecode(PagodaDevice* device, const DecodeCombining& combining, PagodaError* error) {
  const PagodaAttention& op = combining.op;
  const LaunchShape shape = {dim3(op.batch.numRequests * combining.rows, op.cache.numKvHeads), dim3(kWarp)};
  return check(launch(combineDecodeKernel, shape, device->stream, combining), "attention", error);
}

}  // namespace pagoda::cuda
