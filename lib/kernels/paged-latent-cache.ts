import { argumentError } from "../errors.js";
import { checkFloats, checkInts, checkRows, integerOption } from "./kernel-arguments.js";
import { attentionBatch, copyBatch, writeBatch, type AttentionBatch } from "./kernel-batch.js";
import type { KernelStep, KernelWeight } from "./kernel-plan.js";
import { KernelSet } from "./kernel-set.js";
import {
  cacheOptions,
  gather,
  gatherSteps,
  scaleOption,
  type CacheOptions,
  type GatherOptions,
} from "./paged-kv-cache.js";

export interface PagedLatentCacheOptions extends CacheOptions {
  readonly numHeads: number;
  /** Columns of a latent, even. */
  readonly kvLoraRank: number;
  /** Columns of a query head without rope. */
  readonly qkNopeHeadDim: number;
  /** Columns of the rope key, even. */
  readonly qkRopeHeadDim: number;
  /** Columns of an output head. */
  readonly vHeadDim: number;
  /** W_UK of each head, transposed: `[numHeads, kvLoraRank, qkNopeHeadDim]`. Copied at once. */
  readonly keyUp: Float32Array;
  /** W_UV of each head: `[numHeads, vHeadDim, kvLoraRank]`. Copied at once. */
  readonly valueUp: Float32Array;
  /** Of `keyUp` and `valueUp` on the device. @default "f32" */
  readonly weightDtype?: "f32" | "bf16";
  /** Of scores. @default (qkNopeHeadDim + qkRopeHeadDim) ** -0.5 */
  readonly scale?: number;
}

/**
 * A paged cache of latents and rope keys on a device, and the kernels of multi-head latent attention over it (DeepSeek-V2,
 * arXiv:2405.04434). Calls run in the order in which they are made.
 */
export interface PagedLatentCache extends AsyncDisposable {
  /**
   * Writes the rows of tokens into slots.
   *
   * @throws PagodaError ERR_ARGUMENT that names the parameter; so do the other calls
   */
  latentWrite(rows: {
    /** `[tokens, kvLoraRank]`, after its norm. */
    readonly latent: Float32Array;
    /** `[tokens, qkRopeHeadDim]`, after rope. */
    readonly ropeKey: Float32Array;
    /** int32 `[tokens]`: block * blockSize + offset; -1: not written. */
    readonly slotMapping: Int32Array;
  }): Promise<void>;
  /** Copies whole blocks, one pair (from, to) after the other. */
  copyBlocks(pairs: Int32Array): Promise<void>;
  /**
   * Causal attention in the absorbed form, with the online gather: the kernel reads the pages itself. A row has the same bits
   * in any batch.
   *
   * @returns `[tokens, numHeads, vHeadDim]`
   */
  mlaAttention(
    batch: AttentionBatch & {
      /** `[tokens, numHeads, qkNopeHeadDim]` */
      readonly query: Float32Array;
      /** `[tokens, numHeads, qkRopeHeadDim]`, after rope. */
      readonly queryRope: Float32Array;
    },
  ): Promise<Float32Array>;
  /**
   * The explicit gather: reads tokens back, contiguously, with the rounding of the cache.
   *
   * @returns `[tokens, kvLoraRank + qkRopeHeadDim]`, a row being latent and rope key
   */
  gatherKv(tokens: GatherOptions): Promise<Float32Array>;
  /** Frees the memory. Calls under way end first, later ones reject with ERR_CLOSED. */
  close(): Promise<void>;
}

const steps = { latentWrite: 0, mlaAttention: 1 } as const;

/**
 * Makes a {@link PagedLatentCache}.
 *
 * @throws PagodaError ERR_ARGUMENT, ERR_BACKEND_UNAVAILABLE, ERR_MEMORY
 */
export async function createPagedLatentCache(
  options: PagedLatentCacheOptions,
): Promise<PagedLatentCache> {
  const shape = latentShape(options);
  const { numHeads, rank, nope, rope } = shape;
  const common = cacheOptions(options);
  const { maxTokens, kv } = common;
  const set = await KernelSet.open({
    ...common,
    layer: { numKvHeads: 1, headDim: rank + rope, latentDim: rank },
    slidingWindow: 0,
    weights: upProjections(options, shape),
    steps: latentSteps(shape, scaleOption(options.scale, (nope + rope) ** -0.5)),
  });
  return {
    latentWrite: async ({ latent, ropeKey, slotMapping }) => {
      const tokens = checkRows("latent", latent, rank, maxTokens);
      checkFloats("ropeKey", ropeKey, tokens * rope, `${tokens} rows of ${rope}`);
      const batch = writeBatch(tokens, checkInts("slotMapping", slotMapping), kv.blockSize);
      await set.run(steps.latentWrite, [latent, ropeKey], batch);
    },
    copyBlocks: async (pairs) => {
      const none = [new Float32Array(rank), new Float32Array(rope)];
      const batch = copyBatch(checkInts("pairs", pairs), kv.blockSize);
      await set.run(steps.latentWrite, none, batch);
    },
    mlaAttention: async ({ query, queryRope, ...batch }) => {
      const tokens = checkRows("query", query, numHeads * nope, maxTokens);
      const shape = `${tokens} rows of ${numHeads * rope}`;
      checkFloats("queryRope", queryRope, tokens * numHeads * rope, shape);
      return set.run(steps.mlaAttention, [query, queryRope], attentionBatch(batch, tokens));
    },
    gatherKv: (options) => gather(set, options, { kv, maxTokens, width: rank + rope }),
    close: () => set.close(),
    [Symbol.asyncDispose]: () => set.close(),
  };
}

interface LatentShape {
  readonly numHeads: number;
  readonly rank: number;
  readonly nope: number;
  readonly rope: number;
  readonly value: number;
}

function latentShape(options: PagedLatentCacheOptions): LatentShape {
  return {
    numHeads: integerOption(options, "numHeads", { max: 4096 }),
    rank: integerOption(options, "kvLoraRank", { min: 2, max: 1022 }),
    nope: integerOption(options, "qkNopeHeadDim", { max: 1024 }),
    rope: integerOption(options, "qkRopeHeadDim", { min: 2, max: 1022 }),
    value: integerOption(options, "vHeadDim", { max: 1024 }),
  };
}

function upProjections(
  { keyUp, valueUp, weightDtype = "f32" }: PagedLatentCacheOptions,
  { numHeads, rank, nope, value }: LatentShape,
): KernelWeight[] {
  if (!["f32", "bf16"].includes(weightDtype)) {
    throw argumentError("weightDtype", '"f32" or "bf16"', weightDtype);
  }
  const matrix = (name: string, data: Float32Array, rows: number, cols: number): KernelWeight => {
    checkFloats(name, data, numHeads * rows * cols, `[${numHeads}, ${rows}, ${cols}]`);
    return { name, kind: "matrix", rows: numHeads * rows, cols, dtype: weightDtype, data };
  };
  return [matrix("keyUp", keyUp, rank, nope), matrix("valueUp", valueUp, value, rank)];
}

function latentSteps(
  { numHeads, rank, nope, rope, value }: LatentShape,
  scale: number,
): KernelStep[] {
  return [
    { op: "latentWrite", inputs: [rank, rope], attributes: { layer: 0 } },
    {
      op: "mlaAttention",
      inputs: [numHeads * nope, numHeads * rope],
      output: numHeads * value,
      weights: [0, 1, undefined],
      attributes: { layer: 0, numHeads, scale, expandFrom: 0 },
    },
    ...gatherSteps(rank + rope),
  ];
}
