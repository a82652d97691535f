import { describe, expect, it } from "vitest";
import { attention, type AttentionAttributes } from "../../lib/reference/attention.js";
import {
  cacheRow,
  cacheWrite,
  copyBlocks,
  createKvCache,
  type KvCache,
} from "../../lib/reference/kv-cache.js";
import { matrix, type Matrix } from "../../lib/reference/matrix.js";
import { createRandom } from "../support/random.js";
import { makeStep, type RequestStep } from "../support/step.js";

const plain: AttentionAttributes = { numHeads: 1, scale: 1, slidingWindow: 0, softcap: 0 };

/** A cache of one head of `headDim`, in which block 1 holds the given keys and values. */
function filledCache(keys: number[][], values: number[][], numKvHeads = 1): KvCache {
  const headDim = (keys[0]?.length ?? 0) / numKvHeads;
  const cache = createKvCache(
    { numKvHeads, headDim },
    { numBlocks: 3, blockSize: 4, dtype: "f32" },
  );
  const rows = (x: number[][]): Matrix => matrix(Float32Array.from(x.flat()), headDim * numKvHeads);
  cacheWrite(
    cache,
    rows(keys),
    rows(values),
    Int32Array.from(keys, (_, i) => 4 + i),
  );
  return cache;
}

/** The result for one token behind the keys of {@link filledCache}. */
function attendOnce(cache: KvCache, query: number[], length: number, attributes = plain): number[] {
  const step = makeStep([{ tokenIds: [0], numComputedTokens: length - 1, blocks: [1] }], 4);
  const out = matrix(new Float32Array(query.length).fill(NaN), query.length);
  attention(out, matrix(Float32Array.from(query), query.length), cache, step, attributes);
  return [...out.data];
}

describe("attention", () => {
  it("is the softmax-weighted sum of the values", () => {
    const cache = filledCache(
      [
        [0, 0],
        [Math.log(3), 0],
      ],
      [
        [1, 10],
        [5, 50],
      ],
    );
    const [a, b] = attendOnce(cache, [1, 0], 2); // weights 1/4 and 3/4
    expect(a).toBeCloseTo(4, 5);
    expect(b).toBeCloseTo(40, 4);
  });

  it("scales and caps the scores", () => {
    const cache = filledCache([[0], [10]], [[0], [1]]);
    const weight = (score: number): number => Math.exp(score) / (1 + Math.exp(score));
    expect(attendOnce(cache, [1], 2, { ...plain, scale: 0.1 })[0]).toBeCloseTo(weight(1), 6);
    const capped = 2 * Math.tanh(10 / 2);
    expect(attendOnce(cache, [1], 2, { ...plain, softcap: 2 })[0]).toBeCloseTo(weight(capped), 6);
  });

  it("sees slidingWindow positions, its own included", () => {
    const cache = filledCache([[0], [0], [0], [0]], [[1], [2], [4], [8]]);
    const mean = (window: number): number =>
      attendOnce(cache, [1], 4, { ...plain, slidingWindow: window })[0] ?? NaN;
    expect(mean(1)).toBe(8);
    expect(mean(2)).toBe(6);
    expect(mean(3)).toBeCloseTo(14 / 3, 6);
    expect(mean(9)).toBe(15 / 4);
    expect(mean(0)).toBe(15 / 4);
  });

  it("shares each KV head among neighbouring query heads", () => {
    const cache = filledCache([[0, 0]], [[1, 2]], 2);
    expect(attendOnce(cache, [7, 7, 7, 7], 1, { ...plain, numHeads: 4 })).toEqual([1, 1, 2, 2]);
  });

  it("does not overflow", () => {
    const cache = filledCache([[1e4], [2e4]], [[1], [2]]);
    expect(attendOnce(cache, [1], 2)).toEqual([2]);
    expect(attendOnce(cache, [-1], 2)).toEqual([1]);
  });

  it("gives the same in chunks, in other blocks, and in company", () => {
    const tokens = 13;
    const attributes = { numHeads: 4, scale: 0.5, slidingWindow: 6, softcap: 3 };
    const [whole] = run([{ from: 0, to: tokens, blocks: [1, 2, 3, 4] }], 4, attributes);
    for (const [chunk, blockSize, blocks] of [
      [1, 4, [3, 1, 2, 4]],
      [5, 3, [5, 2, 1, 4, 3]],
      [4, 16, [2]],
    ] as const) {
      const ranges = Array.from({ length: Math.ceil(tokens / chunk) }, (_, i) => {
        return { from: i * chunk, to: Math.min(tokens, (i + 1) * chunk), blocks };
      });
      const parts = ranges.map((range) => run([range], blockSize, attributes, ranges)[0]);
      expect(joined(parts)).toEqual(whole);
    }
    const inCompany = run(
      [
        { from: 0, to: 5, blocks: [9, 8] },
        { from: 0, to: tokens, blocks: [1, 2, 3, 4] },
      ],
      4,
      attributes,
    );
    expect(inCompany[1]).toEqual(whole);
  });
});

interface Range {
  from: number;
  to: number;
  blocks: readonly number[];
}

/** Results of one step, a request each. Query, key and value of a position are always the same. */
function run(
  ranges: Range[],
  blockSize: number,
  attributes: AttentionAttributes,
  written = ranges,
): Float32Array[] {
  const [numKvHeads, headDim] = [2, 3];
  const cache = createKvCache({ numKvHeads, headDim }, { numBlocks: 10, blockSize, dtype: "f32" });
  const request = ({ from, to, blocks }: Range): RequestStep => {
    return {
      tokenIds: Array.from({ length: to - from }, () => 0),
      numComputedTokens: from,
      blocks,
    };
  };
  for (const range of written) {
    const { positions, slotMapping } = makeStep([request(range)], blockSize);
    cacheWrite(
      cache,
      rowsOf(positions, 1, numKvHeads * headDim),
      rowsOf(positions, 2, numKvHeads * headDim),
      slotMapping,
    );
  }
  const step = makeStep(ranges.map(request), blockSize);
  const query = rowsOf(step.positions, 3, attributes.numHeads * headDim);
  const out = matrix(new Float32Array(query.data.length).fill(NaN), query.width);
  attention(out, query, cache, step, attributes);
  return ranges.map((_, r) =>
    out.data.slice(
      (step.queryStartLoc[r] ?? 0) * out.width,
      (step.queryStartLoc[r + 1] ?? 0) * out.width,
    ),
  );
}

function rowsOf(positions: Int32Array, seed: number, width: number): Matrix {
  const rows = [...positions].map((position) =>
    createRandom(1000 * seed + position).normals(width),
  );
  return matrix(joined(rows), width);
}

function joined(parts: readonly (Float32Array | undefined)[]): Float32Array {
  return Float32Array.from(parts.flatMap((part) => Array.from(part ?? [])));
}

describe("the KV cache", () => {
  it("keeps heads apart and leaves out negative slots", () => {
    const cache = createKvCache(
      { numKvHeads: 2, headDim: 1 },
      { numBlocks: 2, blockSize: 2, dtype: "f32" },
    );
    const rows = (x: number[]): Matrix => matrix(Float32Array.from(x), 2);
    cacheWrite(cache, rows([1, 2, 3, 4]), rows([5, 6, 7, 8]), Int32Array.of(3, -1));
    expect([...cacheRow(cache, "key", 3, 1), ...cacheRow(cache, "value", 3, 0)]).toEqual([2, 5]);
    expect([...cache.key.subarray(0, 6)]).toEqual(Array.from({ length: 6 }, () => NaN));
  });

  it("rounds to bf16 where it is bf16", () => {
    const cache = createKvCache(
      { numKvHeads: 1, headDim: 1 },
      { numBlocks: 2, blockSize: 1, dtype: "bf16" },
    );
    const row = matrix(Float32Array.of(1.001), 1);
    cacheWrite(cache, row, row, Int32Array.of(1));
    expect([cache.key[1], cache.value[1]]).toEqual([1, 1]);
  });

  it("copies blocks in the order of the pairs", () => {
    const cache = createKvCache(
      { numKvHeads: 1, headDim: 1 },
      { numBlocks: 4, blockSize: 2, dtype: "f32" },
    );
    cache.key.set([0, 0, 1, 1, 2, 2, 3, 3]);
    cache.value.set([0, 0, 10, 10, 20, 20, 30, 30]);
    copyBlocks(cache, Int32Array.of(1, 2, 2, 3));
    expect([...cache.key]).toEqual([0, 0, 1, 1, 1, 1, 1, 1]);
    expect([...cache.value]).toEqual([0, 0, 10, 10, 10, 10, 10, 10]);
  });
});
