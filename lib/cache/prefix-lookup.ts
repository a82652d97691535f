import type { KvGroup } from "../graph/plan.js";
import { nullBlock } from "./block-pool.js";
import type { BlockStore } from "./block-store.js";
import { firstSeenBlock } from "./kv-window.js";
import type { PrefixNode, PrefixTokens } from "./prefix-cache.js";

/** Cached blocks that hold the first tokens of a sequence. Valid until anything changes in the block manager. */
export interface CachedPrefix {
  /** For each KV group, physical block of each logical block; null blocks stand before the group's window. */
  readonly blocks: readonly (readonly number[])[];
  /** `blockSize` a logical block. */
  readonly numTokens: number;
  /** For each KV group, how many of its blocks are free. */
  readonly numFree: readonly number[];
  /** Free blocks of all groups: taking the prefix takes them from the pool. */
  readonly numFreeBlocks: number;
}

/** Nothing found. */
export function emptyPrefix(numGroups: number): CachedPrefix {
  const blocks = Array.from({ length: numGroups }, () => []);
  return { blocks, numTokens: 0, numFree: blocks.map(() => 0), numFreeBlocks: 0 };
}

/**
 * The longest prefix that all groups have and that leaves at least one token to be computed, as its logits are needed. A
 * group has a prefix where it has all blocks that the next token attends to: all from the start, or, behind a window,
 * those of the window alone.
 */
export function findLongestPrefix(
  tokens: PrefixTokens,
  groups: readonly KvGroup[],
  blockSize: number,
  store: BlockStore,
): CachedPrefix {
  const { prefixes } = store;
  const runs = new Runs(groups, blockSize);
  const nodes: PrefixNode[] = [];
  let numBlocks = 0;
  for (let end = blockSize; end < tokens.tokenIds.length; end += blockSize) {
    const node = prefixes.find(nodes.at(-1), tokens, nodes.length);
    if (node === undefined) break;
    nodes.push(node);
    for (const block of node.blocks) runs.add(nodes.length - 1, prefixes.groupOf(block));
    if (runs.cannotAgree(nodes.length)) break;
    if (runs.agree(nodes.length)) numBlocks = nodes.length;
  }
  if (numBlocks === 0) return emptyPrefix(groups.length);
  return choose(nodes, numBlocks, groups, blockSize, store);
}

/** Blocks of the first `numBlocks` nodes for each group, those in use before free ones. */
function choose(
  nodes: readonly PrefixNode[],
  numBlocks: number,
  groups: readonly KvGroup[],
  blockSize: number,
  { pool, prefixes }: BlockStore,
): CachedPrefix {
  const numTokens = numBlocks * blockSize;
  const first = groups.map((group) => firstSeenBlock(group, blockSize, numTokens));
  const blocks = groups.map(() => Array.from({ length: numBlocks }, () => nullBlock));
  for (let i = Math.min(...first); i < numBlocks; i++) {
    for (const block of nodes[i]!.blocks) {
      const group = prefixes.groupOf(block);
      if (i < first[group]!) continue;
      const chosen = blocks[group]![i]!;
      if (chosen === nullBlock || pool.refCount(chosen) === 0) blocks[group]![i] = block;
    }
  }
  const isFree = (block: number): boolean => block !== nullBlock && pool.refCount(block) === 0;
  const numFree = blocks.map((list) => list.filter(isFree).length);
  return { blocks, numTokens, numFree, numFreeBlocks: numFree.reduce((a, b) => a + b, 0) };
}

/** For each group, the last run of logical blocks that are cached. */
class Runs {
  readonly #groups: readonly KvGroup[];
  readonly #blockSize: number;
  readonly #start: Int32Array;
  readonly #last: Int32Array;

  constructor(groups: readonly KvGroup[], blockSize: number) {
    this.#groups = groups;
    this.#blockSize = blockSize;
    this.#start = new Int32Array(groups.length);
    this.#last = new Int32Array(groups.length).fill(-1);
  }

  /** Logical block `index` is cached in the group; indices do not fall. */
  add(index: number, group: number): void {
    if (this.#last[group]! < index - 1) this.#start[group] = index;
    this.#last[group] = index;
  }

  /** Whether each group has what is needed behind the first `numBlocks` blocks. */
  agree(numBlocks: number): boolean {
    return this.#groups.every((group, g) => {
      const first = firstSeenBlock(group, this.#blockSize, numBlocks * this.#blockSize);
      return first === numBlocks || (this.#start[g]! <= first && this.#last[g] === numBlocks - 1);
    });
  }

  /** Whether a group without a window lacks one of the first `numBlocks` blocks, so that nothing longer can be had. */
  cannotAgree(numBlocks: number): boolean {
    return this.#groups.some(
      ({ slidingWindow }, g) => slidingWindow === 0 && this.#last[g] !== numBlocks - 1,
    );
  }
}
