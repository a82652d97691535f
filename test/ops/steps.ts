import type { StepInput } from "../../lib/engine/step.js";
import { makeStep, type RequestStep } from "../support/step.js";

/** A step of `tokens` tokens of one request, all rows being outputs; for ops that look at rows only. */
export function plainStep(
  tokens: number,
  more: Partial<Pick<StepInput, "tokenIds" | "positions">> = {},
): StepInput {
  const blockSize = 16;
  const blocks = Array.from({ length: Math.ceil(tokens / blockSize) }, (_, i) => 1 + i);
  const tokenIds = Array.from({ length: tokens }, () => 0);
  return { ...makeStep([{ tokenIds, blocks }], blockSize), ...more };
}

/** One request of a batch: tokens in the cache before, tokens of this step. */
export interface RequestShape {
  readonly context: number;
  readonly tokens: number;
}

/** The ragged batches that attention has to handle. */
export const batches: Readonly<Record<string, readonly RequestShape[]>> = {
  "first token": [{ context: 0, tokens: 1 }],
  prefill: [{ context: 0, tokens: 37 }],
  chunk: [{ context: 29, tokens: 11 }],
  decode: [{ context: 70, tokens: 1 }],
  mixed: [
    { context: 0, tokens: 9 },
    { context: 33, tokens: 5 },
    { context: 64, tokens: 1 },
    { context: 0, tokens: 1 },
    { context: 15, tokens: 1 },
  ],
  "long context": [
    { context: 1100, tokens: 3 },
    { context: 511, tokens: 2 },
  ],
};

/** Blocks of each request of a batch: scattered over the cache, none shared, block 0 unused. */
export function scatterBlocks(
  shapes: readonly RequestShape[],
  blockSize: number,
): { blocks: number[][]; numBlocks: number } {
  const counts = shapes.map(({ context, tokens }) => Math.ceil((context + tokens) / blockSize));
  const total = counts.reduce((a, b) => a + b, 0);
  let next = total; // from the end, so that blocks run backwards
  return {
    blocks: counts.map((count) => Array.from({ length: count }, () => next--)),
    numBlocks: total + 1,
  };
}

/**
 * The step that only writes K and V of the first `context` tokens of each request. Every token is a request of its own that
 * sees one slot, so that attention, which runs too, costs nothing.
 */
export function writeContextStep(
  shapes: readonly RequestShape[],
  blocks: readonly (readonly number[])[],
  blockSize: number,
): StepInput {
  const slots = shapes.flatMap(({ context }, request) =>
    Array.from({ length: context }, (_, position) =>
      slotOf(blocks[request] ?? [], position, blockSize),
    ),
  );
  const requests = slots.map((): RequestStep => ({ tokenIds: [0], blocks: [1], outputs: [] }));
  return { ...makeStep(requests, blockSize), slotMapping: Int32Array.from(slots) };
}

/** The step that computes `tokens` tokens of each request after its context. */
export function attendStep(
  shapes: readonly RequestShape[],
  blocks: readonly (readonly number[])[],
  blockSize: number,
): StepInput {
  const requests = shapes.map(({ context, tokens }, request): RequestStep => {
    const tokenIds = Array.from({ length: tokens }, () => 0);
    return { tokenIds, numComputedTokens: context, blocks: blocks[request] ?? [], outputs: [] };
  });
  return makeStep(requests, blockSize);
}

/** `step` with the blocks that lie wholly before the window replaced by the null block. */
export function dropBlocksBehindWindow(
  step: StepInput,
  window: number,
  blockSize: number,
): StepInput {
  const blockTable = step.blockTable.slice();
  for (const [request, seqLen] of step.seqLens.entries()) {
    const queryLen = (step.queryStartLoc[request + 1] ?? 0) - (step.queryStartLoc[request] ?? 0);
    const firstSeen = Math.max(0, seqLen - queryLen - window + 1);
    blockTable.fill(
      0,
      request * step.maxBlocks,
      request * step.maxBlocks + Math.floor(firstSeen / blockSize),
    );
  }
  return { ...step, blockTable };
}

function slotOf(blocks: readonly number[], position: number, blockSize: number): number {
  return (blocks[Math.floor(position / blockSize)] ?? 0) * blockSize + (position % blockSize);
}
