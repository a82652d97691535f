/**
 * Single kernels on arrays of numbers: flash attention, paged attention, multi-head latent attention and the gather operator.
 * Everything runs on a thread of its own, never on the event loop.
 *
 * @packageDocumentation
 */

/** A paged cache of K and V: cacheWrite, copyBlocks, pagedAttention, gatherKv. */
export {
  createPagedKvCache,
  type CacheOptions,
  type GatherOptions,
  type PagedKvCache,
  type PagedKvCacheOptions,
} from "./paged-kv-cache.js";

/** A paged cache of latents: latentWrite, copyBlocks, mlaAttention, gatherKv. */
export {
  createPagedLatentCache,
  type PagedLatentCache,
  type PagedLatentCacheOptions,
} from "./paged-latent-cache.js";

/** Attention over contiguous rows. */
export { flashAttention, type FlashAttentionOptions } from "./flash-attention.js";

export type { AttentionBatch, GatherBatch } from "./kernel-batch.js";
export type { KernelDevice } from "./kernel-set.js";
export type { Layout } from "../graph/ops.js";

export { errorCodes, PagodaError, type ErrorCode } from "../errors.js";
