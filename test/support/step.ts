import type { StepInput } from "../../lib/engine/step.js";

/** One request of a step: its new tokens, those computed before, and its blocks. */
export interface RequestStep {
  readonly tokenIds: readonly number[];
  /** Tokens in the cache before this step. @default 0 */
  readonly numComputedTokens?: number;
  /** Physical block of each logical block; block b in group g of G is physical block (b - 1) * G + g + 1. */
  readonly blocks: readonly number[];
  /** Which of the new tokens need logits. @default all */
  readonly outputs?: readonly number[];
}

/** The step that runs all `requests` at once, greedily, in all of `numGroups` KV groups. */
export function makeStep(
  requests: readonly RequestStep[],
  blockSize: number,
  numGroups = 1,
): StepInput {
  const groups = Array.from({ length: numGroups }, (_, g) => {
    return requests.map((request) => {
      return { ...request, blocks: request.blocks.map((b) => (b - 1) * numGroups + g + 1) };
    });
  });
  const steps = groups.map((requests) => makeGroupStep(requests, blockSize));
  const joined = (name: "blockTable" | "slotMapping"): Int32Array =>
    Int32Array.from(steps.flatMap((step) => [...step[name]]));
  return { ...steps[0]!, blockTable: joined("blockTable"), slotMapping: joined("slotMapping") };
}

function makeGroupStep(requests: readonly RequestStep[], blockSize: number): StepInput {
  const maxBlocks = Math.max(...requests.map((request) => request.blocks.length));
  const tokenIds: number[] = [];
  const positions: number[] = [];
  const slotMapping: number[] = [];
  const queryStartLoc = [0];
  const seqLens: number[] = [];
  const blockTable: number[] = [];
  const outputRows: number[] = [];
  for (const { tokenIds: ids, numComputedTokens = 0, blocks, outputs } of requests) {
    const first = tokenIds.length;
    for (let position = numComputedTokens; position < numComputedTokens + ids.length; position++) {
      positions.push(position);
      const block = blocks[Math.floor(position / blockSize)] as number;
      slotMapping.push(block * blockSize + (position % blockSize));
    }
    tokenIds.push(...ids);
    queryStartLoc.push(tokenIds.length);
    seqLens.push(numComputedTokens + ids.length);
    blockTable.push(...blocks, ...Array.from({ length: maxBlocks - blocks.length }, () => 0));
    outputRows.push(...(outputs ?? [...ids.keys()]).map((row) => first + row));
  }
  return {
    tokenIds: Int32Array.from(tokenIds),
    positions: Int32Array.from(positions),
    queryStartLoc: Int32Array.from(queryStartLoc),
    seqLens: Int32Array.from(seqLens),
    blockTable: Int32Array.from(blockTable),
    maxBlocks,
    slotMapping: Int32Array.from(slotMapping),
    blockCopies: new Int32Array(),
    outputRows: Int32Array.from(outputRows),
    sampling: greedySampling(outputRows.length),
  };
}

export function greedySampling(outputs: number): StepInput["sampling"] {
  return {
    temperature: new Float32Array(outputs),
    topK: new Int32Array(outputs),
    topP: new Float32Array(outputs).fill(1),
    minP: new Float32Array(outputs),
    seed: new Uint32Array(2 * outputs),
    position: new Int32Array(outputs),
  };
}
