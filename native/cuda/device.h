// What the host side of every CUDA source shares: the device behind PagodaDevice, errors as status and sentence, and
// the ops.
#pragma once

#include <cuda_runtime.h>

#include <cstdio>

#include "../backend.h"

namespace pagoda::cuda {

PagodaStatus fail(PagodaStatus status, const char* message, PagodaError* error);

/// PAGODA_OK, or the status that fits a CUDA error, with its name in the message.
PagodaStatus check(cudaError_t result, const char* what, PagodaError* error);

/// Waits for what is queued on `stream` and gives the memory that it has freed back to the GPU, which must be current.
void trimPool(cudaStream_t stream);

/// Device memory that an op needs for its own run. It grows in the order of the stream, so what was handed out before
/// may still be in use by kernels that are queued; one op may hold one part at a time.
class Scratch {
 public:
  PagodaStatus reserve(cudaStream_t stream, uint64_t bytes, void** address, PagodaError* error);
  void release(cudaStream_t stream);
  /// How often the memory has become another one.
  int64_t moves() const { return moves_; }

 private:
  void* memory_ = nullptr;
  uint64_t bytes_ = 0;
  int64_t moves_ = 0;
};

PagodaStatus weightBytes(PagodaDevice* device, const PagodaWeight* weight, uint64_t* bytes, PagodaError* error);
PagodaStatus prepareWeight(PagodaDevice* device, const PagodaWeight* weight, int32_t rowStart, int32_t rows,
                           const void* source, PagodaDtype sourceDtype, PagodaError* error);
PagodaStatus kvBlockBytes(PagodaDevice* device, const PagodaKvCache* cache, uint64_t* bytes, PagodaError* error);

PagodaStatus embed(PagodaDevice* device, const PagodaEmbed* op, PagodaError* error);
PagodaStatus rmsNorm(PagodaDevice* device, const PagodaRmsNorm* op, PagodaError* error);
PagodaStatus linear(PagodaDevice* device, const PagodaLinear* op, PagodaError* error);
PagodaStatus ropeTable(PagodaDevice* device, const PagodaRopeTable* op, PagodaError* error);
PagodaStatus rope(PagodaDevice* device, const PagodaRope* op, PagodaError* error);
PagodaStatus cacheWrite(PagodaDevice* device, const PagodaCacheWrite* op, PagodaError* error);
PagodaStatus copyBlocks(PagodaDevice* device, const PagodaCopyBlocks* op, PagodaError* error);
PagodaStatus attention(PagodaDevice* device, const PagodaAttention* op, PagodaError* error);
PagodaStatus latentWrite(PagodaDevice* device, const PagodaLatentWrite* op, PagodaError* error);
PagodaStatus mlaAttention(PagodaDevice* device, const PagodaMlaAttention* op, PagodaError* error);
PagodaStatus gatherKv(PagodaDevice* device, const PagodaGatherKv* op, PagodaError* error);
PagodaStatus gatedActivation(PagodaDevice* device, const PagodaGatedActivation* op, PagodaError* error);
PagodaStatus add(PagodaDevice* device, const PagodaAdd* op, PagodaError* error);
PagodaStatus route(PagodaDevice* device, const PagodaRoute* op, PagodaError* error);
PagodaStatus experts(PagodaDevice* device, const PagodaExperts* op, PagodaError* error);
PagodaStatus takeRows(PagodaDevice* device, const PagodaTakeRows* op, PagodaError* error);
PagodaStatus sample(PagodaDevice* device, const PagodaSample* op, PagodaError* error);

PagodaStatus beginGraph(PagodaDevice* device, PagodaError* error);
PagodaStatus endGraph(PagodaDevice* device, PagodaGraph** graph, PagodaError* error);
PagodaStatus runGraph(PagodaDevice* device, PagodaGraph* graph, int32_t* isOutdated, PagodaError* error);
void releaseGraph(PagodaDevice* device, PagodaGraph* graph);

}  // namespace pagoda::cuda

struct PagodaDevice {
  int index = 0;
  cudaStream_t stream = nullptr;
  bool ownsStream = false;
  int multiprocessors = 1;
  size_t sharedBytes = 0;                           // that a block may ask for
  uint64_t maxPartialBytes = uint64_t{512} << 20;   // that the splits of one attention may leave
  uint64_t maxExpandedBytes = uint64_t{512} << 20;  // keys and values that mlaAttention makes at a time
  void* tensorMapEncoder = nullptr;                 // of the driver (tensor-map.cuh), where wgmma can be used
  pagoda::cuda::Scratch scratch;                    // of the op that runs
  pagoda::cuda::Scratch rounded;                    // rows of a product as its kernels read them
  pagoda::cuda::Scratch latents;  // of mlaAttention: queries and results in the latent space, or keys and values
};
