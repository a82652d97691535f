// Bytes of a block of the KV cache.
#include "kv-cache.cuh"

namespace pagoda::cuda {

PagodaStatus kvBlockBytes(PagodaDevice*, const PagodaKvCache* cache, uint64_t* bytes, PagodaError* error) {
  if (cache->dtype != PAGODA_F32 && cache->dtype != PAGODA_BF16 && cache->dtype != PAGODA_INT8)
    return fail(PAGODA_UNSUPPORTED, "The CUDA backend keeps the KV cache as f32, bf16 or int8", error);
  if (cache->blockSize < 1 || cache->numKvHeads < 1 || cache->headDim < 1 || cache->latentDim < 0)
    return fail(PAGODA_INVALID, "Expected a block size, KV heads and a headDim of at least 1", error);
  constexpr int kMaxHeadDim = 512, kMaxLatentRow = 1024;
  if (cache->headDim > (cache->latentDim > 0 ? kMaxLatentRow : kMaxHeadDim))
    return fail(PAGODA_UNSUPPORTED, "The CUDA backend supports heads of 512 and latent rows of 1024 columns at most",
                error);
  *bytes = static_cast<uint64_t>(KvLayout(*cache).block);
  return PAGODA_OK;
}

}  // namespace pagoda::cuda
