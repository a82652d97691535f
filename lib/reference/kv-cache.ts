import type { KvShape } from "../graph/plan.js";
import type { KvCacheOptions } from "../native.js";
import { roundToBf16, rowOf, type Matrix } from "./matrix.js";

/** The paged KV cache of one slot; `key` and `value` are `[numBlocks, blockSize, numKvHeads, headDim]`. */
export interface KvCache extends KvShape {
  readonly key: Float32Array;
  readonly value: Float32Array;
  readonly blockSize: number;
  readonly dtype: KvCacheOptions["dtype"];
}

/** A cache full of NaN, so that whatever reads a slot that was never written shows. */
export function createKvCache(shape: KvShape, options: KvCacheOptions): KvCache {
  const { numBlocks, blockSize, dtype } = options;
  const length = numBlocks * blockSize * shape.numKvHeads * shape.headDim;
  const key = new Float32Array(length).fill(NaN);
  return { ...shape, blockSize, dtype, key, value: key.slice() };
}

/** A view of the vector of one KV head in one slot (= block * blockSize + offset), `[headDim]`. */
export function cacheRow(
  cache: KvCache,
  of: "key" | "value",
  slot: number,
  head: number,
): Float32Array {
  const start = (slot * cache.numKvHeads + head) * cache.headDim;
  return cache[of].subarray(start, start + cache.headDim);
}

/** Writes K and V of each token into its slot, rounded to the cache's dtype. A negative slot is not written. */
export function cacheWrite(
  cache: KvCache,
  key: Matrix, // [tokens, numKvHeads * headDim]
  value: Matrix, // [tokens, numKvHeads * headDim]
  slotMapping: Int32Array, // [tokens]
): void {
  const stored = (row: Float32Array): Float32Array =>
    cache.dtype === "bf16" ? roundToBf16(row) : row;
  for (const [token, slot] of slotMapping.entries()) {
    if (slot < 0) continue;
    const start = slot * cache.numKvHeads * cache.headDim;
    cache.key.set(stored(rowOf(key, token)), start);
    cache.value.set(stored(rowOf(value, token)), start);
  }
}

/** Copies whole blocks, in order: for each pair (from, to), block `from` to block `to`. */
export function copyBlocks(cache: KvCache, pairs: Int32Array): void {
  const width = blockElements(cache);
  for (let i = 0; i + 1 < pairs.length; i += 2) {
    const [from, to] = [pairs[i] as number, pairs[i + 1] as number];
    cache.key.copyWithin(to * width, from * width, (from + 1) * width);
    cache.value.copyWithin(to * width, from * width, (from + 1) * width);
  }
}

/** Views of the bytes of one block: its keys and its values, float32 whatever `dtype` they are rounded to. */
export function blockParts(cache: KvCache, block: number): [Uint8Array, Uint8Array] {
  const length = blockElements(cache) * Float32Array.BYTES_PER_ELEMENT;
  const part = ({ buffer, byteOffset }: Float32Array): Uint8Array =>
    new Uint8Array(buffer, byteOffset + block * length, length);
  return [part(cache.key), part(cache.value)];
}

/** Elements of the keys, or of the values, of one block. */
function blockElements({ blockSize, numKvHeads, headDim }: KvCache): number {
  return blockSize * numKvHeads * headDim;
}
