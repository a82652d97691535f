// Draws one token a row: logits processors, temperature, filters, then the exponential race. One block a row.
#include "filters.cuh"
#include "logits-processors.cuh"
#include "logprobs.cuh"
#include "sample.cuh"

namespace pagoda::cuda {
namespace {

/// Rows [firstRow, firstRow + grid) and the scratch of each of them.
struct Rows {
  PagodaSample op;
  int32_t firstRow;
  uint8_t* scratch;
  int64_t scratchBytes;  // of a row

  __host__ __device__ int64_t vocabBytes() const {
    return op.controls.typicalP == nullptr ? 0 : roundUp(static_cast<int64_t>(op.logits.width) * 4, 16);
  }
  __host__ __device__ int64_t historyBytes() const {
    return op.controls.typicalP == nullptr ? 0 : roundUp(static_cast<int64_t>(op.controls.maxHistory) * 4, 16);
  }
  __host__ __device__ int64_t rowBytes() const {
    const int64_t wanted = op.logprobs.wanted == nullptr ? 0 : op.logprobs.maxWanted;
    return 2 * vocabBytes() + historyBytes() + roundUp(wanted * 4, 16);
  }

  __device__ SampleScratch scratchOf(int64_t index) const {
    uint8_t* at = scratch + index * scratchBytes;
    return {reinterpret_cast<float*>(at), reinterpret_cast<int32_t*>(at + vocabBytes()),
            reinterpret_cast<int32_t*>(at + 2 * vocabBytes()),
            reinterpret_cast<int32_t*>(at + 2 * vocabBytes() + historyBytes())};
  }
};

/// argmax of weight / e, e = -log(u) exponentially distributed: a draw in proportion to the weights. Since e >= 1 - u,
/// most logarithms need not be taken.
__device__ int32_t race(const Filters& filters, const Uniforms& uniforms, SampleShared& shared) {
  Candidate best = {-1.0, -1};
  filters.forEach([&](int32_t token, double weight) {
    const double u = uniforms.of(token);
    if (weight < best.weight * (1.0 - u)) return;
    const Candidate score = {weight / -log(u), token};
    if (isHeavier(score, best)) best = score;
  });
  return blockBest(best, shared, isHeavier).token;
}

__device__ int32_t draw(const PagodaSample& op, int32_t row, const float* logits, int32_t largest,
                        SampleShared& shared) {
  const double temperature = op.temperature[row];
  if (!(temperature > 0)) return largest;
  const Uniforms uniforms = {op.seed[2 * static_cast<int64_t>(row)], op.seed[2 * static_cast<int64_t>(row) + 1],
                             static_cast<uint32_t>(op.position[row])};
  Filters filters = makeFilters(logits, op.logits.width, logits[largest], temperature, op.minP[row]);
  keepTopK(filters, op.topK[row], shared);
  const bool hasControls = op.controls.typicalP != nullptr;
  if (hasControls) keepTypicalP(filters, op.controls.typicalP[row], shared);
  keepTopP(filters, op.topP[row], shared);
  if (hasControls && uniforms.ofXtc() < op.controls.xtcProbability[row])
    dropTopChoices(filters, op.controls.xtcThreshold[row], shared);
  return race(filters, uniforms, shared);
}

/// The row's target, or a drawn token; -1 where the row is not finite. `largest` is the index of the largest raw logit.
__device__ int32_t chooseToken(const PagodaSample& op, int32_t row, const float* raw, int32_t largest,
                               const SampleScratch& scratch, SampleShared& shared) {
  if (largest < 0) return -1;
  if (op.targets != nullptr && op.targets[row] >= 0) return op.targets[row];
  const float* logits = processLogits(op, row, raw, scratch, shared);
  if (logits != raw) largest = findLargest(logits, op.logits.width, shared);
  return largest < 0 ? -1 : draw(op, row, logits, largest, shared);
}

__global__ void __launch_bounds__(kSampleThreads, 1) sampleKernel(const Rows rows) {
  auto& shared = sharedMemory<SampleShared>();
  const PagodaSample& op = rows.op;
  const int32_t row = rows.firstRow + static_cast<int32_t>(blockIdx.x);
  const float* raw = rowOf(op.logits, row);
  const SampleScratch scratch = rows.scratchOf(blockIdx.x);
  const int32_t largest = findLargest(raw, op.logits.width, shared);
  const int32_t token = chooseToken(op, row, raw, largest, scratch, shared);
  if (threadIdx.x == 0) {
    op.finite[row] = token >= 0 ? 1 : 0;
    op.tokens[row] = token >= 0 ? token : 0;
  }
  if (token >= 0 && op.logprobs.wanted != nullptr)
    writeLogprobs(op.logprobs, row, raw, op.logits.width, raw[largest], token, scratch.ids, shared);
}

}  // namespace

PagodaStatus sample(PagodaDevice* device, const PagodaSample* op, PagodaError* error) {
  constexpr int64_t kMostScratch = int64_t{256} << 20;
  if (const PagodaStatus status = requireF32(error, op->logits)) return status;
  if (op->logits.rows == 0) return PAGODA_OK;
  Rows rows = {*op, 0, nullptr, 0};
  rows.scratchBytes = rows.rowBytes();
  int64_t atOnce = rows.scratchBytes == 0 ? op->logits.rows : kMostScratch / rows.scratchBytes;
  atOnce = atOnce < 1 ? 1 : atOnce < op->logits.rows ? atOnce : op->logits.rows;
  void* memory = nullptr;
  if (const PagodaStatus status = device->scratch.reserve(device->stream, atOnce * rows.scratchBytes, &memory, error))
    return status;
  rows.scratch = static_cast<uint8_t*>(memory);
  for (; rows.firstRow < op->logits.rows; rows.firstRow += static_cast<int32_t>(atOnce)) {
    const int64_t left = op->logits.rows - rows.firstRow;
    const LaunchShape shape = {dim3(static_cast<unsigned>(left < atOnce ? left : atOnce)), dim3(kSampleThreads),
                               sizeof(SampleShared)};
    if (const PagodaStatus status = check(launch(sampleKernel, shape, device->stream, rows), "sample", error))
      return status;
  }
  return PAGODA_OK;
}

}  // namespace pagoda::cuda
