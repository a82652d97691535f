import { describe, expect, it } from "vitest";
import {
  createPagedKvCache,
  flashAttention,
  type PagedKvCacheOptions,
} from "../../lib/kernels/index.js";
import { createRandom } from "../support/random.js";
import { attendTo, largestDifference, rowsOf, type PlainOptions } from "./plain-attention.js";

const shape = { numHeads: 6, numKvHeads: 2, headDim: 24 };
const kvWidth = shape.numKvHeads * shape.headDim;
const queryWidth = shape.numHeads * shape.headDim;

const open = (options: Partial<PagedKvCacheOptions> = {}) =>
  createPagedKvCache({ ...shape, numBlocks: 40, blockSize: 4, threads: 2, ...options });

/** Two sequences of 21 and 9 tokens in blocks that are mixed. */
const tables = [
  [7, 3, 12, 5, 30, 9],
  [8, 2, 39],
] as const;
const lengths = [21, 9] as const;

function slotsOf(sequence: 0 | 1): number[] {
  return Array.from({ length: lengths[sequence] }, (_, position) => {
    return (tables[sequence][Math.floor(position / 4)] as number) * 4 + (position % 4);
  });
}

const slotMapping = Int32Array.from([...slotsOf(0), ...slotsOf(1)]);
const blockTable = Int32Array.from([...tables[0], ...tables[1], 0, 0, 0]);

function data(seed: number) {
  const random = createRandom(seed);
  const rows = lengths[0] + lengths[1];
  return { key: random.normals(rows * kvWidth), value: random.normals(rows * kvWidth), random };
}

/** What row `row` of the query, the last but `behind` of a sequence, should give. */
function expected(
  query: Float32Array,
  rows: { key: Float32Array; value: Float32Array },
  seen: readonly [from: number, to: number],
  { sinks, ...options }: PlainOptions & { readonly sinks?: Float32Array },
): number[] {
  return Array.from({ length: shape.numHeads }, (_, head) => {
    const kvHead = Math.floor(head / (shape.numHeads / shape.numKvHeads));
    const columns = [kvHead * shape.headDim, (kvHead + 1) * shape.headDim] as const;
    const of = (data: Float32Array) =>
      rowsOf(data, kvWidth)
        .slice(...seen)
        .map((row) => row.subarray(...columns));
    const q = query.subarray(head * shape.headDim, (head + 1) * shape.headDim);
    const sink = sinks?.[head] ?? -Infinity;
    return attendTo(q, of(rows.key), of(rows.value), { ...options, sink });
  }).flat();
}

describe("pagedAttention", () => {
  it.each([
    ["plain", {}],
    ["with a window and a soft cap", { slidingWindow: 6, softcap: 2, scale: 0.5 }],
    ["with sinks", { sinks: Float32Array.of(0, 1, -1, 0.5, 3, -2) }],
  ])("is softmax attention, %s", async (_, options) => {
    const { key, value, random } = data(1);
    await using cache = await open(options);
    await cache.cacheWrite({ key, value, slotMapping });
    const query = random.normals(6 * queryWidth);
    const queryStartLoc = Int32Array.of(0, 5, 6); // a chunk of the first, a decode of the second
    const batch = { queryStartLoc, seqLens: Int32Array.from(lengths), blockTable };
    const out = await cache.pagedAttention({ query, ...batch });
    const plain = { scale: shape.headDim ** -0.5, ...options };
    const rows = rowsOf(query, queryWidth);
    const wanted = rows.flatMap((row, i) =>
      expected(row, { key, value }, i < 5 ? [0, 17 + i] : [21, 30], plain),
    );
    expect(largestDifference(out, wanted)).toBeLessThan(1e-5);
    const alone = await cache.pagedAttention({
      query: query.subarray(5 * queryWidth),
      queryStartLoc: Int32Array.of(0, 1),
      seqLens: Int32Array.of(9),
      blockTable: Int32Array.from(tables[1]),
    });
    expect(alone).toEqual(out.slice(5 * queryWidth));
  });

  it("copies blocks", async () => {
    const { key, value, random } = data(2);
    await using cache = await open();
    await cache.cacheWrite({ key, value, slotMapping });
    const query = random.normals(queryWidth);
    const one = { query, queryStartLoc: Int32Array.of(0, 1), seqLens: Int32Array.of(9) };
    const before = await cache.pagedAttention({ ...one, blockTable: Int32Array.of(8, 2, 39) });
    await cache.copyBlocks(Int32Array.of(8, 20, 39, 21));
    const after = await cache.pagedAttention({ ...one, blockTable: Int32Array.of(20, 2, 21) });
    expect(after).toEqual(before);
  });
});

describe("gatherKv", () => {
  const ranges = [
    [0, 2, 10],
    [1, 0, 0],
    [1, 3, 6],
  ] as const;
  const batch = {
    blockTable: Int32Array.from([
      ...tables[0],
      ...Array.from({ length: 6 }, () => 2 ** 30), // of a request of which nothing is read
      ...tables[1],
      0,
      0,
      0,
    ]),
    seqStarts: Int32Array.from(ranges.map(([, start]) => start)),
  };
  const wantedOf = (rows: Float32Array): number[] =>
    ranges.flatMap(([sequence, start, length]) => {
      const first = sequence === 0 ? start : lengths[0] + start;
      return Array.from(rows.subarray(first * kvWidth, (first + length) * kvWidth));
    });

  it("reads any tokens back, by lengths or cumulative lengths", async () => {
    const { key, value } = data(3);
    await using cache = await open();
    await cache.cacheWrite({ key, value, slotMapping });
    const byLengths = await cache.gatherKv({ ...batch, seqLens: Int32Array.of(10, 0, 6) });
    expect([...byLengths.key]).toEqual(wantedOf(key));
    expect([...byLengths.value]).toEqual(wantedOf(value));
    expect(await cache.gatherKv({ ...batch, cuSeqLens: Int32Array.of(0, 10, 10, 16) })).toEqual(
      byLengths,
    );
    const none = await cache.gatherKv({ blockTable: Int32Array.of(1), seqLens: Int32Array.of(0) });
    expect(none).toEqual({ key: new Float32Array(), value: new Float32Array() });
  });

  it("gives columns of eight in layout nz", async () => {
    const { key, value } = data(4);
    await using cache = await open({ dtype: "bf16" });
    await cache.cacheWrite({ key, value, slotMapping });
    const wanted = { ...batch, seqLens: Int32Array.of(10, 0, 6) };
    const nd = await cache.gatherKv(wanted);
    const nz = await cache.gatherKv({ ...wanted, layout: "nz" });
    for (const name of ["key", "value"] as const) {
      const columns = Array.from({ length: kvWidth / 8 }, (_, column) =>
        rowsOf(nd[name], kvWidth).map((row) =>
          Array.from(row.subarray(8 * column, 8 * column + 8)),
        ),
      );
      expect([...nz[name]]).toEqual(columns.flat(2));
    }
    expect(largestDifference(nd.key, wantedOf(key))).toBeLessThan(2 ** -7);
  });
});

describe("flashAttention", () => {
  it("attends within sequences of their own", async () => {
    const { key, value, random } = data(5);
    const query = random.normals(7 * queryWidth);
    const cuSeqlensQ = Int32Array.of(0, 3, 7);
    const cuSeqlensK = Int32Array.of(0, 21, 30);
    const out = await flashAttention({ ...shape, query, key, value, cuSeqlensQ, cuSeqlensK });
    const plain = { scale: shape.headDim ** -0.5 };
    const wanted = rowsOf(query, queryWidth).flatMap((row, i) =>
      expected(row, { key, value }, i < 3 ? [0, 19 + i] : [21, 24 + i], plain),
    );
    expect(largestDifference(out, wanted)).toBeLessThan(1e-5);
  });
});

describe("bad input", () => {
  const { key, value, random } = data(6);
  const query = random.normals(queryWidth);
  const one = {
    query,
    queryStartLoc: Int32Array.of(0, 1),
    seqLens: Int32Array.of(9),
    blockTable: Int32Array.from(tables[1]),
  };

  it.each([
    ["numHeads", { numHeads: 5 }],
    ["headDim", { headDim: 513 }],
    ["numBlocks", { numBlocks: 1 }],
    ["blockSize", { blockSize: 0 }],
    ["dtype", { dtype: "f16" as "bf16" }],
    ["maxTokens", { maxTokens: 1.5 }],
    ["scale", { scale: NaN }],
    ["softcap", { softcap: -1 }],
    ["slidingWindow", { slidingWindow: -1 }],
    ["sinks", { sinks: new Float32Array(5) }],
    ["device", { device: "gpu" }],
    ["threads", { threads: 0 }],
  ])("of the options names %s", async (parameter, options) => {
    await expect(open(options)).rejects.toMatchObject({
      code: "ERR_ARGUMENT",
      details: { parameter },
    });
  });

  it("of calls names the parameter, and the cache goes on", async () => {
    await using cache = await open({ maxTokens: 64 });
    const none = new Int32Array();
    const cases: [string, () => Promise<unknown>][] = [
      ["key", () => cache.cacheWrite({ key: new Float32Array(5), value, slotMapping })],
      ["value", () => cache.cacheWrite({ key, value: value.subarray(1), slotMapping })],
      ["slotMapping", () => cache.cacheWrite({ key, value, slotMapping: none })],
      [
        "slotMapping[0]",
        () => cache.cacheWrite({ key, value, slotMapping: slotMapping.map(() => 160) }),
      ],
      ["blockCopies", () => cache.copyBlocks(Int32Array.of(1))],
      ["blockCopies[1]", () => cache.copyBlocks(Int32Array.of(1, 40))],
      ["query", () => cache.pagedAttention({ ...one, query: query.subarray(1) })],
      ["queryStartLoc", () => cache.pagedAttention({ ...one, queryStartLoc: none })],
      ["seqLens[0]", () => cache.pagedAttention({ ...one, seqLens: Int32Array.of(13) })],
      [
        "blockTable[2]",
        () => cache.pagedAttention({ ...one, blockTable: Int32Array.of(8, 2, 40) }),
      ],
      ["seqLens", () => cache.gatherKv({ blockTable: none })],
      [
        "seqLens[0]",
        () => cache.gatherKv({ blockTable: Int32Array.of(1), seqLens: Int32Array.of(5) }),
      ],
      ["seqLens[0]", () => cache.gatherKv({ blockTable: none, seqLens: Int32Array.of(-1) })],
      ["cuSeqLens[0]", () => cache.gatherKv({ blockTable: none, cuSeqLens: Int32Array.of(1, 2) })],
      [
        "seqStarts",
        () =>
          cache.gatherKv({
            blockTable: Int32Array.of(1),
            seqLens: Int32Array.of(1),
            seqStarts: Int32Array.of(-1),
          }),
      ],
      [
        "layout",
        () =>
          cache.gatherKv({
            blockTable: Int32Array.of(1),
            seqLens: Int32Array.of(1),
            layout: "zn" as "nz",
          }),
      ],
    ];
    for (const [parameter, call] of cases) {
      await expect(call(), parameter).rejects.toMatchObject({
        code: "ERR_ARGUMENT",
        details: { parameter },
      });
    }
    await cache.cacheWrite({ key, value, slotMapping });
    expect(await cache.pagedAttention(one)).toHaveLength(queryWidth);
  });

  it("after close is ERR_CLOSED", async () => {
    const cache = await open();
    const write = cache.cacheWrite({ key, value, slotMapping });
    await cache.close();
    await write;
    await expect(cache.pagedAttention(one)).rejects.toMatchObject({ code: "ERR_CLOSED" });
    await cache.close();
  });
});
