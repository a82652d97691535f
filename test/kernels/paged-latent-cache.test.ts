import { describe, expect, it } from "vitest";
import { createPagedLatentCache, type PagedLatentCacheOptions } from "../../lib/kernels/index.js";
import { createRandom } from "../support/random.js";
import { attendTo, largestDifference, rowsOf } from "./plain-attention.js";

const shape = {
  numHeads: 3,
  kvLoraRank: 40,
  qkNopeHeadDim: 24,
  qkRopeHeadDim: 16,
  vHeadDim: 20,
} as const;
const { numHeads, kvLoraRank: rank, qkNopeHeadDim: nope, qkRopeHeadDim: rope, vHeadDim } = shape;

const random = createRandom(7);
const keyUp = random.normals(numHeads * rank * nope).map((x) => x / rank ** 0.5);
const valueUp = random.normals(numHeads * vHeadDim * rank).map((x) => x / rank ** 0.5);

const open = (options: Partial<PagedLatentCacheOptions> = {}) =>
  createPagedLatentCache({ ...shape, keyUp, valueUp, numBlocks: 16, threads: 2, ...options });

const tokens = 37;
const blockTable = Int32Array.of(11, 4, 9);
const slotMapping = Int32Array.from({ length: tokens }, (_, position) => {
  return (blockTable[Math.floor(position / 16)] as number) * 16 + (position % 16);
});
const latent = random.normals(tokens * rank);
const ropeKey = random.normals(tokens * rope);

/** Keys and values of one head, expanded from the latents. */
function expand(head: number): { keys: number[][]; values: number[][] } {
  const ups = rowsOf(keyUp, nope).slice(head * rank, (head + 1) * rank);
  const outs = rowsOf(valueUp, rank).slice(head * vHeadDim, (head + 1) * vHeadDim);
  const ropes = rowsOf(ropeKey, rope);
  const rows = rowsOf(latent, rank);
  return {
    keys: rows.map((row, t) => [
      ...Array.from({ length: nope }, (_, d) =>
        row.reduce((sum, x, l) => sum + x * (ups[l]?.[d] as number), 0),
      ),
      ...(ropes[t] ?? []),
    ]),
    values: rows.map((row) =>
      outs.map((out) => row.reduce((sum, x, l) => sum + x * (out[l] as number), 0)),
    ),
  };
}

describe("mlaAttention", () => {
  it.each([
    ["f32", 1e-5],
    ["bf16", 2e-2],
    ["int8", 4e-2],
  ] as const)("is attention to expanded keys and values, cache in %s", async (dtype, bound) => {
    await using cache = await open({ dtype });
    await cache.latentWrite({ latent, ropeKey, slotMapping });
    const query = random.normals(5 * numHeads * nope);
    const queryRope = random.normals(5 * numHeads * rope);
    const out = await cache.mlaAttention({
      query,
      queryRope,
      queryStartLoc: Int32Array.of(0, 5),
      seqLens: Int32Array.of(tokens),
      blockTable,
    });
    const heads = Array.from({ length: numHeads }, (_, head) => expand(head));
    const wanted = Array.from({ length: 5 }, (_, row) =>
      heads.flatMap(({ keys, values }, head) => {
        const at = row * numHeads + head;
        const q = [
          ...query.subarray(at * nope, (at + 1) * nope),
          ...queryRope.subarray(at * rope, (at + 1) * rope),
        ];
        const seen = tokens - 4 + row;
        const scale = (nope + rope) ** -0.5;
        return attendTo(q, keys.slice(0, seen), values.slice(0, seen), { scale });
      }),
    ).flat();
    expect(largestDifference(out, wanted)).toBeLessThan(bound);
  });
});

describe("gatherKv", () => {
  it("reads latents and rope keys back", async () => {
    await using cache = await open();
    await cache.latentWrite({ latent, ropeKey, slotMapping });
    await cache.copyBlocks(Int32Array.of(4, 2));
    const batch = { blockTable: Int32Array.of(11, 2, 9), seqStarts: Int32Array.of(5) };
    const rows = await cache.gatherKv({ ...batch, seqLens: Int32Array.of(30) });
    const wanted = Array.from({ length: 30 }, (_, i) => [
      ...latent.subarray((5 + i) * rank, (6 + i) * rank),
      ...ropeKey.subarray((5 + i) * rope, (6 + i) * rope),
    ]);
    expect([...rows]).toEqual(wanted.flat());
    const nz = await cache.gatherKv({ ...batch, seqLens: Int32Array.of(30), layout: "nz" });
    expect([...nz.subarray(0, 16)]).toEqual(wanted.slice(0, 2).flatMap((row) => row.slice(0, 8)));
  });
});

describe("bad input", () => {
  it.each([
    ["kvLoraRank", { kvLoraRank: 0 }],
    ["qkRopeHeadDim", { qkRopeHeadDim: -2 }],
    ["keyUp", { keyUp: keyUp.subarray(1) }],
    ["valueUp", { valueUp: new Float32Array() }],
    ["weightDtype", { weightDtype: "q4" as "bf16" }],
    ["scale", { scale: Infinity }],
  ])("of the options names %s", async (parameter, options) => {
    await expect(open(options)).rejects.toMatchObject({
      code: "ERR_ARGUMENT",
      details: { parameter },
    });
  });

  it("of calls names the parameter", async () => {
    await using cache = await open();
    const short = ropeKey.subarray(1);
    await expect(cache.latentWrite({ latent, ropeKey: short, slotMapping })).rejects.toMatchObject({
      details: { parameter: "ropeKey" },
    });
    const query = new Float32Array(numHeads * nope);
    const batch = { queryStartLoc: Int32Array.of(0, 1), seqLens: Int32Array.of(1), blockTable };
    const queryRope = new Float32Array(3);
    await expect(cache.mlaAttention({ query, queryRope, ...batch })).rejects.toMatchObject({
      details: { parameter: "queryRope" },
    });
  });
});
