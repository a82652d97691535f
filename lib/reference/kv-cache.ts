import type { KvShape } from "../graph/plan.js";
import type { KvCacheOptions } from "../native.js";
import { at, roundToBf16, rowOf, type Matrix } from "./matrix.js";

/**
 * The paged KV cache of one slot; `key` and `value` are `[numBlocks, blockSize, numKvHeads, headDim]`. Of a latent cache, `key`
 * holds the rows and `value` is empty.
 */
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
  const value = shape.latentDim === undefined ? key.slice() : new Float32Array();
  return { ...shape, blockSize, dtype, key, value };
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

/** Writes K and V of each token into its slot, rounded to the cache's dtype by head. A negative slot is not written. */
export function cacheWrite(
  cache: KvCache,
  key: Matrix, // [tokens, numKvHeads * headDim]
  value: Matrix, // [tokens, numKvHeads * headDim]
  slotMapping: Int32Array, // [tokens]
): void {
  for (const [token, slot] of slotMapping.entries()) {
    if (slot < 0) continue;
    const start = slot * cache.numKvHeads * cache.headDim;
    cache.key.set(stored(cache, rowOf(key, token), cache.headDim), start);
    cache.value.set(stored(cache, rowOf(value, token), cache.headDim), start);
  }
}

/** Writes `[latent | rope key]` of each token into its slot, each rounded for itself. A negative slot is not written. */
export function latentWrite(
  cache: KvCache,
  latent: Matrix, // [tokens, latentDim]
  ropeKey: Matrix, // [tokens, headDim - latentDim]
  slotMapping: Int32Array, // [tokens]
): void {
  for (const [token, slot] of slotMapping.entries()) {
    if (slot < 0) continue;
    const start = slot * cache.headDim;
    cache.key.set(stored(cache, rowOf(latent, token), latent.width), start);
    cache.key.set(stored(cache, rowOf(ropeKey, token), ropeKey.width), start + latent.width);
  }
}

/** `row` as the cache gives it back; in int8 each `width` elements have a scale. */
function stored({ dtype }: KvCache, row: Float32Array, width: number): Float32Array {
  if (dtype === "int8") return roundToInt8(row, width);
  return dtype === "bf16" ? roundToBf16(row) : row;
}

/**
 * What an int8 cache gives back: each `width` elements as codes of -127 to 127 times their largest |x| / 127, codes being
 * rounded to nearest even. A NaN or infinity makes all of them NaN.
 */
function roundToInt8(row: Float32Array, width: number): Float32Array {
  const rounded = new Float32Array(row.length);
  for (let start = 0; start < row.length; start += width) {
    const head = row.subarray(start, start + width);
    const scale = Math.fround(head.reduce((most, x) => Math.max(most, Math.abs(x)), 0) / 127);
    for (let i = 0; i < head.length; i++) rounded[start + i] = int8Code(at(head, i), scale) * scale;
  }
  return rounded;
}

/** x / scale, rounded to nearest even; NaN where the scale is not finite. */
function int8Code(x: number, scale: number): number {
  if (scale === 0) return 0;
  if (!Number.isFinite(scale)) return NaN;
  const magic = 12582912; // 1.5 * 2^23: adding it rounds a float32 to an integer
  const code = Math.min(127, Math.max(-127, Math.fround(x / scale)));
  return Math.fround(code + magic) - magic;
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

/** Views of the bytes of one block: its keys and its values (none of a latent cache), float32 whatever the `dtype`. */
export function blockParts(cache: KvCache, block: number): [Uint8Array, Uint8Array] {
  const length = blockElements(cache) * Float32Array.BYTES_PER_ELEMENT;
  const part = ({ buffer, byteOffset, byteLength }: Float32Array): Uint8Array =>
    byteLength === 0
      ? new Uint8Array()
      : new Uint8Array(buffer, byteOffset + block * length, length);
  return [part(cache.key), part(cache.value)];
}

/** Elements of the keys, or of the values, of one block. */
function blockElements({ blockSize, numKvHeads, headDim }: KvCache): number {
  return blockSize * numKvHeads * headDim;
}
