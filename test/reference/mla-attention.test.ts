import { describe, expect, it } from "vitest";
import { attention } from "../../lib/reference/attention.js";
import { gatherKv } from "../../lib/reference/gather-kv.js";
import {
  cacheWrite,
  copyBlocks,
  createKvCache,
  blockParts,
  latentWrite,
} from "../../lib/reference/kv-cache.js";
import { matrix, type Matrix } from "../../lib/reference/matrix.js";
import { mlaAttention } from "../../lib/reference/mla-attention.js";
import { createRandom } from "../support/random.js";

const blockSize = 4;

/** Two requests: a chunk of 3 tokens that ends at position 9, and a decoded token at position 5. */
const batch = {
  queryStartLoc: Int32Array.of(0, 3, 4),
  seqLens: Int32Array.of(10, 6),
  blockTable: Int32Array.of(5, 2, 4, 3, 1, 0),
  maxBlocks: 3,
};

/** Slots of all 16 tokens of both requests. */
const slots = Int32Array.from([
  ...Array.from({ length: 10 }, (_, p) => slot([5, 2, 4], p)),
  ...Array.from({ length: 6 }, (_, p) => slot([3, 1], p)),
]);

function slot(blocks: readonly number[], position: number): number {
  return (blocks[Math.floor(position / blockSize)] ?? 0) * blockSize + (position % blockSize);
}

/** x . w^T, in float64, `w` being `[outputs, inputs]`. */
function project(x: Float32Array, w: Float32Array, inputs: number): number[] {
  return Array.from({ length: w.length / inputs }, (_, o) =>
    x.reduce((sum, value, i) => sum + value * (w[o * inputs + i] ?? NaN), 0),
  );
}

function transposed(w: Float32Array, inputs: number): Float32Array {
  return w.map(
    (_, i) => w[(i % (w.length / inputs)) * inputs + Math.floor(i / (w.length / inputs))] ?? NaN,
  );
}

function rows(x: Float32Array, width: number): Float32Array[] {
  return Array.from({ length: x.length / width }, (_, i) => x.subarray(i * width, (i + 1) * width));
}

describe("mlaAttention", () => {
  it("is attention with keys and values made of the latents", () => {
    const [heads, latentDim, ropeDim, nopeDim, valueDim] = [3, 8, 4, 6, 5];
    const random = createRandom(7);
    const up = Array.from({ length: heads }, () => random.normals(nopeDim * latentDim));
    const down = Array.from({ length: heads }, () => random.normals(valueDim * latentDim));
    const latent = random.normals(slots.length * latentDim);
    const ropeKey = random.normals(slots.length * ropeDim);
    const nope = random.normals(4 * heads * nopeDim);
    const queryRope = random.normals(4 * heads * ropeDim);
    const scale = (nopeDim + ropeDim) ** -0.5;

    const latents = createKvCache(
      { numKvHeads: 1, headDim: latentDim + ropeDim, latentDim },
      { numBlocks: 6, blockSize, dtype: "f32" },
    );
    latentWrite(latents, matrix(latent, latentDim), matrix(ropeKey, ropeDim), slots);
    const actual = zeros(4, heads * valueDim);
    const operands = {
      query: matrix(nope, heads * nopeDim),
      queryRope: matrix(queryRope, heads * ropeDim),
      keyUp: matrix(Float32Array.from(up.flatMap((w) => [...transposed(w, latentDim)])), nopeDim),
      valueUp: matrix(Float32Array.from(down.flatMap((w) => [...w])), latentDim),
    };
    mlaAttention(actual, operands, latents, batch, { numHeads: heads, scale });

    // Values are padded to the width of keys.
    const headDim = nopeDim + ropeDim;
    const padding = Array.from({ length: headDim - valueDim }, () => 0);
    const keyRows = rows(latent, latentDim).flatMap((c, t) =>
      up.flatMap((w) => project(c, w, latentDim).concat(Array.from(rows(ropeKey, ropeDim)[t]!))),
    );
    const valueRows = rows(latent, latentDim).flatMap((c) =>
      down.flatMap((w) => project(c, w, latentDim).concat(padding)),
    );
    const queryRows = rows(nope, nopeDim).flatMap((q, i) =>
      Array.from(q).concat(Array.from(rows(queryRope, ropeDim)[i]!)),
    );
    const expanded = createKvCache(
      { numKvHeads: heads, headDim },
      { numBlocks: 6, blockSize, dtype: "f32" },
    );
    const wide = (values: number[]): Matrix => matrix(Float32Array.from(values), heads * headDim);
    cacheWrite(expanded, wide(keyRows), wide(valueRows), slots);
    const out = zeros(4, heads * headDim);
    const attributes = { numHeads: heads, scale, slidingWindow: 0, softcap: 0 };
    attention(out, wide(queryRows), expanded, batch, attributes);
    const expected = rows(out.data, headDim).flatMap((o) => Array.from(o.subarray(0, valueDim)));

    expect(actual.data).toHaveLength(expected.length);
    for (const [i, x] of expected.entries()) expect(actual.data[i]).toBeCloseTo(x, 5);
  });
});

describe("a latent cache", () => {
  it("rounds latent and rope key apart in int8", () => {
    const cache = createKvCache(
      { numKvHeads: 1, headDim: 4, latentDim: 2 },
      { numBlocks: 2, blockSize: 1, dtype: "int8" },
    );
    const latent = matrix(Float32Array.of(127, -2.5), 2);
    latentWrite(cache, latent, matrix(Float32Array.of(254, 3), 2), Int32Array.of(1));
    expect([...cache.key.subarray(4)]).toEqual([127, -2, 254, 4]);
  });

  it("stores a row once, and copies it", () => {
    const cache = createKvCache(
      { numKvHeads: 1, headDim: 4, latentDim: 2 },
      { numBlocks: 3, blockSize: 2, dtype: "f32" },
    );
    expect(blockParts(cache, 1).map(({ length }) => length)).toEqual([2 * 4 * 4, 0]);
    const row = (start: number): Matrix => matrix(Float32Array.of(start, start + 1), 2);
    latentWrite(cache, row(1), row(3), Int32Array.of(3));
    copyBlocks(cache, Int32Array.of(1, 2));
    expect([...cache.key.subarray(20)]).toEqual([1, 2, 3, 4]);
  });

  it("does not write negative slots", () => {
    const cache = createKvCache(
      { numKvHeads: 1, headDim: 4, latentDim: 2 },
      { numBlocks: 2, blockSize: 1, dtype: "f32" },
    );
    const row = matrix(Float32Array.of(1, 2), 2);
    latentWrite(cache, row, row, Int32Array.of(-1));
    expect([...cache.key].every(Number.isNaN)).toBe(true);
  });
});

describe("gatherKv", () => {
  it("reads K of all heads, then V of all heads, from any token on", () => {
    const cache = createKvCache(
      { numKvHeads: 2, headDim: 1 },
      { numBlocks: 6, blockSize, dtype: "f32" },
    );
    const numbers = Float32Array.from(slots, (_, token) => token);
    const heads = (offset: number): Matrix =>
      matrix(Float32Array.from([...numbers].flatMap((n) => [n + offset, n + offset + 100])), 2);
    cacheWrite(cache, heads(0), heads(1000), slots);
    const out = zeros(4, 4);
    gatherKv(out, cache, batch);
    const row = (token: number): number[] => [token, token + 100, token + 1000, token + 1100];
    expect([...out.data]).toEqual([7, 8, 9, 15].flatMap(row));
  });
});

function zeros(count: number, width: number): Matrix {
  return matrix(new Float32Array(count * width), width);
}
