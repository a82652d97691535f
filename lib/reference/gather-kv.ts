import { batchRows } from "./batch-rows.js";
import { cacheRow, type KvCache } from "./kv-cache.js";
import { rowOf, type Matrix } from "./matrix.js";

/**
 * Reads tokens back from the cache: row j of sequence r, of q rows, is position seqLens[r] - q + j. A row is K of all heads,
 * then V of all heads; of a latent cache it is [latent | rope key].
 */
export function gatherKv(
  out: Matrix, // [tokens, 2 * numKvHeads * headDim], of a latent cache [tokens, headDim]
  cache: KvCache,
  batch: Parameters<typeof batchRows>[0],
): void {
  const parts = cache.latentDim === undefined ? (["key", "value"] as const) : (["key"] as const);
  for (const { row, position, blocks } of batchRows(batch)) {
    const block = blocks[Math.floor(position / cache.blockSize)] ?? 0;
    const slot = block * cache.blockSize + (position % cache.blockSize);
    const heads = parts.flatMap((part) =>
      Array.from({ length: cache.numKvHeads }, (_, head) => cacheRow(cache, part, slot, head)),
    );
    for (const [i, head] of heads.entries()) rowOf(out, row).set(head, i * cache.headDim);
  }
}
