import type { KvGroup } from "../graph/plan.js";

/** First logical block that the next token, at position `numTokens`, attends to in a group's layers. */
export function firstSeenBlock(
  { slidingWindow }: KvGroup,
  blockSize: number,
  numTokens: number,
): number {
  if (slidingWindow === 0) return 0;
  return Math.floor(Math.max(0, numTokens - slidingWindow + 1) / blockSize);
}

/**
 * Blocks that one sequence holds at once at most, over all groups, until its first `numTokens` tokens are computed, when no
 * step computes more than `maxChunk` of them.
 */
export function peakBlocks(
  groups: readonly KvGroup[],
  blockSize: number,
  numTokens: number,
  maxChunk: number,
): number {
  let blocks = 0;
  for (const { slidingWindow } of groups) {
    const all = Math.ceil(numTokens / blockSize);
    blocks += Math.min(all, chunkBlocks(slidingWindow, blockSize, maxChunk));
  }
  return blocks;
}

/**
 * Blocks that a group holds at most in a step that computes `chunk` tokens from position p on: those of the positions
 * p - slidingWindow + 1 to p + chunk - 1, and of one before, as the last token of a branching sequence may be computed
 * again, wherever among them blocks begin.
 */
export function chunkBlocks(slidingWindow: number, blockSize: number, chunk: number): number {
  if (slidingWindow === 0) return Infinity;
  const held = slidingWindow + chunk;
  return Math.ceil((held - 1) / blockSize) + 1;
}

/** Tokens, at most `limit`, that a sequence can have in a pool of `numBlocks` usable blocks: {@link peakBlocks} inverted. */
export function tokensThatFit(
  groups: readonly KvGroup[],
  blockSize: number,
  numBlocks: number,
  { maxChunk, limit }: { readonly maxChunk: number; readonly limit: number },
): number {
  let [fits, tooMany] = [0, limit + 1];
  while (tooMany - fits > 1) {
    const middle = Math.floor((fits + tooMany) / 2);
    if (peakBlocks(groups, blockSize, middle, maxChunk) <= numBlocks) fits = middle;
    else tooMany = middle;
  }
  return fits;
}
