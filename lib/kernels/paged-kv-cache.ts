import { checkNumber } from "../arguments.js";
import { argumentError, PagodaError } from "../errors.js";
import { layouts, type Layout } from "../graph/ops.js";
import { checkFloats, checkInts, checkRows, integerOption } from "./kernel-arguments.js";
import {
  attentionBatch,
  copyBatch,
  gatherBatch,
  writeBatch,
  type AttentionBatch,
  type GatherBatch,
} from "./kernel-batch.js";
import type { KernelStep } from "./kernel-plan.js";
import { KernelSet, type KernelDevice } from "./kernel-set.js";

/** What all paged caches are made with. */
export interface CacheOptions extends KernelDevice {
  /** Blocks of the cache, at least 2. Block 0 is like the others here; engines keep it free as the null block. */
  readonly numBlocks: number;
  /** Tokens a block, 1 to 256. @default 16 */
  readonly blockSize?: number;
  /** What the cache holds; rows that go in and come out are f32. @default "f32" */
  readonly dtype?: "f32" | "bf16" | "int8";
  /** Rows of one call at most: they have memory of their own. @default 2048 */
  readonly maxTokens?: number;
  /** Requests of one call at most. @default 256 */
  readonly maxRequests?: number;
}

export interface PagedKvCacheOptions extends CacheOptions {
  /** Query heads, a multiple of `numKvHeads`. */
  readonly numHeads: number;
  readonly numKvHeads: number;
  /** 1 to 512. */
  readonly headDim: number;
  /** Of scores. @default headDim ** -0.5 */
  readonly scale?: number;
  /** Tokens that one attends to, itself included; 0: all. @default 0 */
  readonly slidingWindow?: number;
  /** Scores become softcap * tanh(score / softcap); 0: they stay. @default 0 */
  readonly softcap?: number;
  /** float32 `[numHeads]`: a score of each head that has no value (attention sinks). @default none */
  readonly sinks?: Float32Array;
}

/** Which layout a gather gives; see native/backend.h. */
export interface GatherOptions extends GatherBatch {
  /** "nd": row after row; "nz": `[width / 8, tokens, 8]`, for a width that 8 divides. @default "nd" */
  readonly layout?: Layout;
}

/** A paged cache of keys and values on a device, and the kernels over it. Calls run in the order in which they are made. */
export interface PagedKvCache extends AsyncDisposable {
  /**
   * Writes K and V of tokens into slots.
   *
   * @throws PagodaError ERR_ARGUMENT that names the parameter; so do the other calls
   */
  cacheWrite(rows: {
    /** `[tokens, numKvHeads, headDim]` */
    readonly key: Float32Array;
    /** `[tokens, numKvHeads, headDim]` */
    readonly value: Float32Array;
    /** int32 `[tokens]`: block * blockSize + offset; -1: not written. */
    readonly slotMapping: Int32Array;
  }): Promise<void>;
  /** Copies whole blocks, one pair (from, to) after the other. */
  copyBlocks(pairs: Int32Array): Promise<void>;
  /**
   * Causal attention of query rows to what the block tables name (FlashAttention, arXiv:2205.14135; PagedAttention,
   * arXiv:2309.06180); prefill, chunks and decode together. A row has the same bits in any batch.
   *
   * @returns `[tokens, numHeads, headDim]`
   */
  pagedAttention(
    batch: AttentionBatch & {
      /** `[tokens, numHeads, headDim]` */
      readonly query: Float32Array;
    },
  ): Promise<Float32Array>;
  /**
   * Reads tokens back, contiguously: the inverse of `cacheWrite`, with the rounding of the cache.
   *
   * @returns `[tokens, numKvHeads, headDim]` each, or the columns of layout "nz" of each
   */
  gatherKv(
    tokens: GatherOptions,
  ): Promise<{ readonly key: Float32Array; readonly value: Float32Array }>;
  /** Frees the memory. Calls under way end first, later ones reject with ERR_CLOSED. */
  close(): Promise<void>;
}

const steps = { cacheWrite: 0, attention: 1, nd: 2, nz: 3 } as const;

/**
 * Makes a {@link PagedKvCache}.
 *
 * @throws PagodaError ERR_ARGUMENT, ERR_BACKEND_UNAVAILABLE, ERR_MEMORY
 */
export async function createPagedKvCache(options: PagedKvCacheOptions): Promise<PagedKvCache> {
  const numKvHeads = integerOption(options, "numKvHeads", { max: 4096 });
  const numHeads = integerOption(options, "numHeads", { max: 4096 });
  const headDim = integerOption(options, "headDim", { max: 512 });
  if (numHeads % numKvHeads !== 0) {
    throw argumentError("numHeads", `a multiple of \`numKvHeads\` = ${numKvHeads}`, numHeads);
  }
  const width = numKvHeads * headDim;
  const common = cacheOptions(options);
  const { maxTokens, kv } = common;
  const set = await KernelSet.open({
    ...common,
    layer: { numKvHeads, headDim },
    slidingWindow: integerOption(options, "slidingWindow", { min: 0, fallback: 0 }),
    weights: sinksOf(options.sinks, numHeads),
    steps: attentionSteps(options, { numHeads, headDim, width }),
  });
  return {
    cacheWrite: async ({ key, value, slotMapping }) => {
      const tokens = checkRows("key", key, width, maxTokens);
      checkFloats("value", value, tokens * width, "as many as `key`");
      const batch = writeBatch(tokens, checkInts("slotMapping", slotMapping), kv.blockSize);
      await set.run(steps.cacheWrite, [key, value], batch);
    },
    copyBlocks: async (pairs) => {
      const none = new Float32Array(width);
      const batch = copyBatch(checkInts("pairs", pairs), kv.blockSize);
      await set.run(steps.cacheWrite, [none, none], batch);
    },
    pagedAttention: async ({ query, ...batch }) => {
      const tokens = checkRows("query", query, numHeads * headDim, maxTokens);
      return set.run(steps.attention, [query], attentionBatch(batch, tokens));
    },
    gatherKv: async (options) => {
      const rows = await gather(set, options, { kv, maxTokens, width: 2 * width });
      return splitRows(rows, width, options.layout ?? "nd");
    },
    close: () => set.close(),
    [Symbol.asyncDispose]: () => set.close(),
  };
}

/** The options that caches share, checked. */
export function cacheOptions(
  options: CacheOptions,
): Pick<
  Parameters<typeof KernelSet.open>[0],
  "kv" | "maxTokens" | "maxRequests" | "device" | "threads"
> {
  const { dtype = "f32", device, threads } = options;
  if (!["f32", "bf16", "int8"].includes(dtype)) {
    throw argumentError("dtype", '"f32", "bf16" or "int8"', dtype);
  }
  return {
    kv: {
      numBlocks: integerOption(options, "numBlocks", { min: 2 }),
      blockSize: integerOption(options, "blockSize", { max: 256, fallback: 16 }),
      dtype,
    },
    maxTokens: integerOption(options, "maxTokens", { max: 2 ** 20, fallback: 2048 }),
    maxRequests: integerOption(options, "maxRequests", { max: 2 ** 16, fallback: 256 }),
    ...(device !== undefined && { device }),
    ...(threads !== undefined && { threads }),
  };
}

/** Runs the gather step of the wanted layout. */
export async function gather(
  set: KernelSet,
  { layout = "nd", ...batch }: GatherOptions,
  cache: {
    readonly kv: { readonly blockSize: number };
    readonly maxTokens: number;
    readonly width: number;
  },
): Promise<Float32Array> {
  if (!Object.hasOwn(layouts, layout)) throw argumentError("layout", '"nd" or "nz"', layout);
  if (layout === "nz" && cache.width % 8 !== 0) {
    const message = `Layout "nz" needs rows of a multiple of 8 numbers, but they have ${cache.width}`;
    throw new PagodaError("ERR_ARGUMENT", message, { details: { parameter: "layout" } });
  }
  const wanted = gatherBatch(batch, cache.kv.blockSize);
  if (wanted.tokens > cache.maxTokens) {
    const name = batch.seqLens === undefined ? "cuSeqLens" : "seqLens";
    throw argumentError(name, `at most \`maxTokens\` = ${cache.maxTokens} tokens`, wanted.tokens);
  }
  return wanted.tokens === 0 ? new Float32Array() : set.run(steps[layout], [], wanted);
}

/** The two steps that gather, which follow each other and the two others of a cache. */
export function gatherSteps(width: number): KernelStep[] {
  return Object.values(layouts)
    .filter((layout) => layout === layouts.nd || width % 8 === 0)
    .map((layout) => ({
      op: "gatherKv",
      inputs: [],
      output: width,
      attributes: { layer: 0, layout },
    }));
}

export function scaleOption(scale: number | undefined, fallback: number): number {
  return checkNumber("scale", scale ?? fallback, { min: -1e30, max: 1e30 });
}

function attentionSteps(
  { scale, slidingWindow = 0, softcap = 0, sinks }: PagedKvCacheOptions,
  { numHeads, headDim, width }: { numHeads: number; headDim: number; width: number },
): KernelStep[] {
  const attributes = {
    layer: 0,
    numHeads,
    scale: scaleOption(scale, headDim ** -0.5),
    slidingWindow,
    softcap: checkNumber("softcap", softcap, { min: 0, max: 1e30 }),
  };
  const query = numHeads * headDim;
  const weights = [sinks === undefined ? undefined : 0];
  return [
    { op: "cacheWrite", inputs: [width, width], attributes: { layer: 0 } },
    { op: "attention", inputs: [query], output: query, weights, attributes },
    ...gatherSteps(2 * width),
  ];
}

function sinksOf(sinks: Float32Array | undefined, numHeads: number) {
  if (sinks === undefined) return [];
  const data = checkFloats("sinks", sinks, numHeads, "one a head");
  return [{ name: "sinks", kind: "vector", rows: 1, cols: numHeads, dtype: "f32", data } as const];
}

/** `[tokens, key | value]` as two arrays. In layout "nz" the columns of keys come first as they are. */
function splitRows(
  rows: Float32Array,
  width: number,
  layout: Layout,
): { key: Float32Array; value: Float32Array } {
  const half = rows.length / 2;
  if (layout === "nz" && width % 8 === 0)
    return { key: rows.slice(0, half), value: rows.slice(half) };
  const [key, value] = [new Float32Array(half), new Float32Array(half)];
  for (let row = 0; row < half / width; row++) {
    const start = 2 * row * width;
    key.set(rows.subarray(start, start + width), row * width);
    value.set(rows.subarray(start + width, start + 2 * width), row * width);
  }
  return { key, value };
}
