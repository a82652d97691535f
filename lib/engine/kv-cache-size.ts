import { PagodaError } from "../errors.js";
import { peakBlocks, tokensThatFit } from "../cache/kv-window.js";
import type { KvGroup } from "../graph/plan.js";
import type { PlanMemory } from "./native-executor.js";

/** How sequences use the KV cache. */
export interface KvCacheShape {
  /** Of the plan. */
  readonly kvGroups: readonly KvGroup[];
  /** Tokens a block. */
  readonly blockSize: number;
  /** Tokens of one sequence in one step at most. */
  readonly maxChunkTokens: number;
}

/** What the caller asks of the KV cache, and what would be enough. */
export interface KvCacheDemand extends KvCacheShape {
  /** Blocks, the null block included; goes before `memory`. */
  readonly numBlocks: number | undefined;
  /** Bytes. */
  readonly memory: number | undefined;
  readonly maxSequences: number;
  readonly maxModelLen: number;
}

/** Of the available memory, what the cache takes at most when nobody says. */
const defaultShare = 1 / 4;

/**
 * Blocks of the KV cache, the null block included: as asked, or enough for `maxSequences` full contexts within a quarter
 * of the available memory.
 *
 * @param availableMemory - bytes; 0: unknown
 * @throws ERR_MEMORY when the cache does not hold a block of each KV group besides the null block (`details`: bytes)
 */
export function sizeKvCache(
  demand: KvCacheDemand,
  needs: PlanMemory,
  availableMemory: number,
): number {
  const numBlocks = Math.min(wantedBlocks(demand, needs, availableMemory), maxBlocks(demand));
  const fewest = fewestBlocks(demand);
  if (numBlocks >= fewest) return numBlocks;
  const message = `The KV cache needs at least ${fewest} blocks of ${needs.kvBlock} bytes, but ${numBlocks} were given`;
  const details = memoryDetails(needs, numBlocks, availableMemory);
  throw new PagodaError("ERR_MEMORY", message, { details });
}

/** @throws ERR_MEMORY when weights, workspace and cache need more than is available (`details`: bytes of each) */
export function checkMemoryFits(
  needs: PlanMemory,
  numBlocks: number,
  availableMemory: number,
): void {
  if (memoryFits(needs, numBlocks, availableMemory)) return;
  const message = tooLarge(needs, numBlocks * needs.kvBlock, availableMemory);
  const details = memoryDetails(needs, numBlocks, availableMemory);
  throw new PagodaError("ERR_MEMORY", message, { details });
}

/** Whether all fits; true where the available memory is not known. */
export function memoryFits(needs: PlanMemory, numBlocks: number, availableMemory: number): boolean {
  return availableMemory === 0 || neededMemory(needs, numBlocks) <= availableMemory;
}

/** Bytes of weights, workspace and KV cache together. */
export function neededMemory({ weights, arena, kvBlock }: PlanMemory, numBlocks: number): number {
  return weights + arena + numBlocks * kvBlock;
}

/** What an ERR_MEMORY tells of the plan: bytes of each part. */
export function memoryDetails(
  needs: PlanMemory,
  numBlocks: number,
  available: number,
): Record<string, number> {
  const needed = neededMemory(needs, numBlocks);
  return { needed, ...needs, kvCache: numBlocks * needs.kvBlock, available };
}

/** Tokens, at most `maxModelLen`, that one sequence can have: the null block holds none. */
export function effectiveMaxModelLen(
  maxModelLen: number,
  numBlocks: number,
  { kvGroups, blockSize, maxChunkTokens: maxChunk }: KvCacheShape,
): number {
  return tokensThatFit(kvGroups, blockSize, numBlocks - 1, { maxChunk, limit: maxModelLen });
}

/** Sequences of `numTokens` tokens that run at once in `numBlocks` blocks, the null block included. */
export function fullContexts(
  numTokens: number,
  numBlocks: number,
  { kvGroups, blockSize, maxChunkTokens }: KvCacheShape,
): number {
  return Math.floor((numBlocks - 1) / peakBlocks(kvGroups, blockSize, numTokens, maxChunkTokens));
}

function wantedBlocks(
  demand: KvCacheDemand,
  { kvBlock }: PlanMemory,
  availableMemory: number,
): number {
  const { numBlocks, memory, maxSequences, maxModelLen } = demand;
  const { kvGroups, blockSize, maxChunkTokens } = demand;
  if (numBlocks !== undefined) return numBlocks;
  if (memory !== undefined) return Math.floor(memory / kvBlock);
  const enough = maxSequences * peakBlocks(kvGroups, blockSize, maxModelLen, maxChunkTokens) + 1;
  if (availableMemory === 0) return enough;
  const affordable = Math.floor((availableMemory * defaultShare) / kvBlock);
  return Math.min(enough, Math.max(affordable, fewestBlocks(demand)));
}

/** A token has a block in each group; the null block holds none. */
function fewestBlocks({ kvGroups }: KvCacheShape): number {
  return kvGroups.length + 1;
}

/** Slots are int32. */
function maxBlocks({ blockSize }: KvCacheDemand): number {
  return Math.floor((2 ** 31 - 1) / blockSize);
}

function tooLarge({ weights, arena }: PlanMemory, kvCache: number, available: number): string {
  const parts = `weights ${mebibytes(weights)}, workspace ${mebibytes(arena)}, KV cache ${mebibytes(kvCache)}`;
  const total = mebibytes(weights + arena + kvCache);
  return `The model needs ${total} (${parts}), but ${mebibytes(available)} are available`;
}

function mebibytes(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(1)} MiB`;
}
