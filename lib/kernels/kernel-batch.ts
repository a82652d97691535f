import { argumentError } from "../errors.js";
import { checkInts } from "./kernel-arguments.js";

/** The ragged batch of one call, as {@link StepInput} has it. */
export interface KernelBatch {
  readonly tokens: number;
  readonly queryStartLoc: Int32Array;
  readonly seqLens: Int32Array;
  readonly blockTable: Int32Array;
  /** @default nothing is written */
  readonly slotMapping?: Int32Array;
  readonly blockCopies?: Int32Array;
}

/** Which cached positions the rows of a query are. Names follow vLLM. */
export interface AttentionBatch {
  /** int32 `[requests + 1]`, increasing from 0: the rows of request r are `queryStartLoc[r]` to `queryStartLoc[r + 1] - 1`. */
  readonly queryStartLoc: Int32Array;
  /** int32 `[requests]`: positions of the request that are in the cache; its last row is the last of them. */
  readonly seqLens: Int32Array;
  /** int32 `[requests, maxBlocks]`: the block of each `blockSize` positions. Entries behind `seqLens` are not read. */
  readonly blockTable: Int32Array;
}

/** Which tokens a gather reads. */
export interface GatherBatch {
  /** int32 `[requests, maxBlocks]` */
  readonly blockTable: Int32Array;
  /** int32 `[requests]`: how many tokens are read of each request; 0 is allowed. This or `cuSeqLens`. */
  readonly seqLens?: Int32Array;
  /** int32 `[requests + 1]`, increasing from 0: the same, added up. */
  readonly cuSeqLens?: Int32Array;
  /** int32 `[requests]`: position of the first token that is read, anywhere in a block. @default 0 */
  readonly seqStarts?: Int32Array;
}

/** Writes go by slots alone: one request stands for all rows. */
export function writeBatch(
  tokens: number,
  slotMapping: Int32Array,
  blockSize: number,
): KernelBatch {
  return {
    tokens,
    queryStartLoc: Int32Array.of(0, tokens),
    seqLens: Int32Array.of(tokens),
    blockTable: new Int32Array(Math.ceil(tokens / blockSize)),
    slotMapping,
  };
}

/** Copies blocks, and writes nothing. */
export function copyBatch(blockCopies: Int32Array, blockSize: number): KernelBatch {
  return { ...writeBatch(1, Int32Array.of(-1), blockSize), blockCopies };
}

export function attentionBatch(batch: AttentionBatch, tokens: number): KernelBatch {
  return {
    tokens,
    queryStartLoc: checkInts("queryStartLoc", batch.queryStartLoc),
    seqLens: checkInts("seqLens", batch.seqLens),
    blockTable: checkInts("blockTable", batch.blockTable),
  };
}

/** Requests of which nothing is read are left out, as a step has none without tokens. */
export function gatherBatch(batch: GatherBatch, blockSize: number): KernelBatch {
  const lengths = gatherLengths(batch);
  const blockTable = checkInts("blockTable", batch.blockTable);
  const starts = checkInts("seqStarts", batch.seqStarts ?? new Int32Array(lengths.length));
  if (starts.length !== lengths.length || starts.some((start) => start < 0)) {
    throw argumentError("seqStarts", `${lengths.length} positions`, starts);
  }
  const maxBlocks = blockTable.length / Math.max(lengths.length, 1);
  if (!Number.isInteger(maxBlocks)) {
    throw argumentError("blockTable", `rows for ${lengths.length} requests`, blockTable);
  }
  const requests = [...lengths.keys()].filter((r) => lengths[r] !== 0);
  const queryStartLoc = [0];
  const seqLens: number[] = [];
  for (const r of requests) {
    const [length = 0, start = 0] = [lengths[r], starts[r]];
    if (start + length > maxBlocks * blockSize) {
      const room = `at most ${maxBlocks * blockSize} positions, as many as \`blockTable\` has`;
      throw argumentError(`seqLens[${r}]`, room, start + length);
    }
    queryStartLoc.push((queryStartLoc.at(-1) ?? 0) + length);
    seqLens.push(start + length);
  }
  const rows = new Int32Array(requests.length * maxBlocks);
  for (const [i, r] of requests.entries()) {
    rows.set(blockTable.subarray(r * maxBlocks, (r + 1) * maxBlocks), i * maxBlocks);
  }
  return {
    tokens: queryStartLoc.at(-1) ?? 0,
    queryStartLoc: Int32Array.from(queryStartLoc),
    seqLens: Int32Array.from(seqLens),
    blockTable: rows,
  };
}

function gatherLengths({ seqLens, cuSeqLens }: GatherBatch): Int32Array {
  if ((seqLens === undefined) === (cuSeqLens === undefined)) {
    throw argumentError("seqLens", "an Int32Array here or for `cuSeqLens`", seqLens);
  }
  const [name, given] = seqLens === undefined ? ["cuSeqLens", cuSeqLens] : ["seqLens", seqLens];
  const values = checkInts(name, given);
  const lengths = seqLens === undefined ? differences(values) : values;
  const bad = lengths.findIndex((length) => length < 0);
  if (bad >= 0) throw argumentError(`${name}[${bad}]`, "no negative length", lengths[bad]);
  return lengths;
}

function differences(values: Int32Array): Int32Array {
  if (values[0] !== 0) throw argumentError("cuSeqLens[0]", "0", values[0]);
  return values.slice(1).map((end, i) => end - (values[i] as number));
}
