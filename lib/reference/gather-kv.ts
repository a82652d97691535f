import { layouts } from "../graph/ops.js";
import { batchRows } from "./batch-rows.js";
import { cacheRow, type KvCache } from "./kv-cache.js";
import { rowOf, type Matrix } from "./matrix.js";

/**
 * Reads tokens back from the cache: row j of sequence r, of q rows, is position seqLens[r] - q + j. A row is K of all heads,
 * then V of all heads; of a latent cache it is [latent | rope key]. `layout` 1 (NZ): the elements of [rows, width] lie as
 * [width / 8, rows, 8].
 */
export function gatherKv(
  out: Matrix, // [tokens, 2 * numKvHeads * headDim], of a latent cache [tokens, headDim]
  cache: KvCache,
  batch: Parameters<typeof batchRows>[0],
  { layout }: { readonly layout: number },
): void {
  const parts = cache.latentDim === undefined ? (["key", "value"] as const) : (["key"] as const);
  for (const { row, position, blocks } of batchRows(batch)) {
    const block = blocks[Math.floor(position / cache.blockSize)] ?? 0;
    const slot = block * cache.blockSize + (position % cache.blockSize);
    const heads = parts.flatMap((part) =>
      Array.from({ length: cache.numKvHeads }, (_, head) => cacheRow(cache, part, slot, head)),
    );
    const values = heads.flatMap((head) => Array.from(head));
    if (layout === layouts.nd) rowOf(out, row).set(values);
    else
      for (const [column, value] of values.entries()) out.data[nzIndex(out, row, column)] = value;
  }
}

const nzColumns = 8;

function nzIndex({ start, rows }: Matrix, row: number, column: number): number {
  const [block, within] = [Math.floor(column / nzColumns), column % nzColumns];
  return start + (block * rows + row) * nzColumns + within;
}
