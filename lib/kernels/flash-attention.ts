import { argumentError } from "../errors.js";
import { checkFloats, checkInts, checkRows, integerOption } from "./kernel-arguments.js";
import { createPagedKvCache, type PagedKvCacheOptions } from "./paged-kv-cache.js";

export interface FlashAttentionOptions extends Omit<
  PagedKvCacheOptions,
  "numBlocks" | "blockSize" | "dtype" | "maxTokens" | "maxRequests"
> {
  /** `[queryTokens, numHeads, headDim]` */
  readonly query: Float32Array;
  /** `[keyTokens, numKvHeads, headDim]` */
  readonly key: Float32Array;
  /** `[keyTokens, numKvHeads, headDim]` */
  readonly value: Float32Array;
  /** int32 `[sequences + 1]`, increasing from 0: where the query rows of each sequence begin. @default one sequence */
  readonly cuSeqlensQ?: Int32Array;
  /** int32 `[sequences + 1]`: the same for keys. @default `cuSeqlensQ`, or one sequence */
  readonly cuSeqlensK?: Int32Array;
  /** What keys and values are kept as. @default "f32" */
  readonly dtype?: "f32" | "bf16";
}

const blockSize = 64;

/**
 * Causal attention over contiguous rows, of one or several sequences (FlashAttention, arXiv:2205.14135; names as in its
 * `flash_attn_varlen_func`). The last query row of a sequence is at its last key, so it has as many keys or more.
 *
 * It makes a cache for one call: `createPagedKvCache` is for many.
 *
 * @returns `[queryTokens, numHeads, headDim]`
 * @throws PagodaError ERR_ARGUMENT that names the parameter, ERR_BACKEND_UNAVAILABLE, ERR_MEMORY
 */
export async function flashAttention(options: FlashAttentionOptions): Promise<Float32Array> {
  const { query, key, value, dtype = "f32", ...rest } = options;
  const heads = integerOption(options, "numHeads", { max: 4096 });
  const kvHeads = integerOption(options, "numKvHeads", { max: 4096 });
  const headDim = integerOption(options, "headDim", { max: 512 });
  const queryTokens = checkRows("query", query, heads * headDim, maxRows);
  const keyTokens = checkRows("key", key, kvHeads * headDim, maxRows);
  checkFloats("value", value, key.length, "as many as `key`");
  const queryStartLoc = cumulative("cuSeqlensQ", options.cuSeqlensQ, queryTokens);
  const keyStarts = cumulative("cuSeqlensK", options.cuSeqlensK ?? options.cuSeqlensQ, keyTokens);
  if (keyStarts.length !== queryStartLoc.length) {
    throw argumentError("cuSeqlensK", `${queryStartLoc.length} numbers`, keyStarts.length);
  }
  const pages = layOut(keyStarts);
  await using cache = await createPagedKvCache({
    ...rest,
    dtype,
    blockSize,
    numBlocks: Math.max(pages.numBlocks, 2),
    maxTokens: Math.max(queryTokens, keyTokens),
    maxRequests: pages.seqLens.length,
  });
  const written = cache.cacheWrite({ key, value, slotMapping: pages.slotMapping });
  const { seqLens, blockTable } = pages;
  const attended = cache.pagedAttention({ query, queryStartLoc, seqLens, blockTable });
  return (await Promise.all([attended, written]))[0];
}

const maxRows = 2 ** 20;

function cumulative(parameter: string, given: Int32Array | undefined, rows: number): Int32Array {
  const starts = checkInts(parameter, given ?? Int32Array.of(0, rows));
  const isIncreasing = starts.every((start, i) => i === 0 || start > (starts[i - 1] as number));
  if (starts.length >= 2 && starts[0] === 0 && starts.at(-1) === rows && isIncreasing)
    return starts;
  throw argumentError(parameter, `an Int32Array that increases from 0 to ${rows}`, starts);
}

/** Each sequence in blocks of its own, one after the other. */
function layOut(starts: Int32Array): {
  numBlocks: number;
  seqLens: Int32Array;
  slotMapping: Int32Array;
  blockTable: Int32Array;
} {
  const seqLens = starts.slice(1).map((end, i) => end - (starts[i] as number));
  const counts = [...seqLens].map((length) => Math.ceil(length / blockSize));
  const maxBlocks = Math.max(...counts);
  const slotMapping = new Int32Array(starts.at(-1) as number);
  const blockTable = new Int32Array(seqLens.length * maxBlocks);
  let numBlocks = 0;
  for (const [sequence, count] of counts.entries()) {
    for (let b = 0; b < count; b++) blockTable[sequence * maxBlocks + b] = numBlocks + b;
    const [start = 0, end = 0] = [starts[sequence], starts[sequence + 1]];
    for (let row = start; row < end; row++) {
      slotMapping[row] = numBlocks * blockSize + row - start;
    }
    numBlocks += count;
  }
  return { numBlocks, seqLens, slotMapping, blockTable };
}
