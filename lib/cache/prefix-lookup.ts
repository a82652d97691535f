import type { KvGroup } from "../graph/plan.js";
import { nullBlock, type BlockPool } from "./block-pool.js";
import type { BlockStore } from "./block-store.js";
import { firstSeenBlock } from "./kv-window.js";
import type { PrefixCache, PrefixNode, PrefixTokens } from "./prefix-cache.js";

/** Cached blocks that hold the first tokens of a sequence. Valid until anything changes in the block manager. */
export interface CachedPrefix {
  /** For each KV group, physical block of each logical block; null blocks stand before the group's window. */
  readonly blocks: readonly Int32Array[];
  /** `blockSize` a logical block. */
  readonly numTokens: number;
  /** For each KV group, how many of its blocks are free. */
  readonly numFree: readonly number[];
  /** Free blocks of all groups: taking the prefix takes them from the pool. */
  readonly numFreeBlocks: number;
}

/** Nothing found. */
export function emptyPrefix(numGroups: number): CachedPrefix {
  const blocks = Array.from({ length: numGroups }, () => new Int32Array(0));
  return { blocks, numTokens: 0, numFree: blocks.map(() => 0), numFreeBlocks: 0 };
}

/**
 * The longest prefix that all groups have and that leaves at least one token to be computed, as its logits are needed. A
 * group has a prefix where it has all blocks that the next token attends to: all from the start, or, behind a window,
 * those of the window alone.
 *
 * @param nodes - those that an earlier lookup of the same tokens found; brought up to date. While they are in the cache,
 *   nothing is hashed or compared again.
 */
export function findLongestPrefix(
  tokens: PrefixTokens,
  nodes: PrefixNode[],
  groups: readonly KvGroup[],
  blockSize: number,
  store: BlockStore,
): CachedPrefix {
  const maxBlocks = Math.ceil(tokens.tokenIds.length / blockSize) - 1;
  const runs = new Runs(groups, blockSize);
  let numBlocks = 0;
  for (let index = 0; index < maxBlocks; index++) {
    const node = nodeAt(index, nodes, tokens, store.prefixes);
    if (node === undefined) break;
    runs.add(index, node, store.prefixes);
    if (runs.cannotAgree(index + 1)) break;
    if (runs.agree(index + 1)) numBlocks = index + 1;
  }
  if (numBlocks === 0) return emptyPrefix(groups.length);
  const numTokens = numBlocks * blockSize;
  const first = groups.map((group) => firstSeenBlock(group, blockSize, numTokens));
  const blocks = chooseBlocks(nodes, numBlocks, first, store);
  const numFree = blocks.map((list) => countFree(list, store.pool));
  return { blocks, numTokens, numFree, numFreeBlocks: numFree.reduce((a, b) => a + b, 0) };
}

/** The node of logical block `index`, known or found now; `nodes` has all before. */
function nodeAt(
  index: number,
  nodes: PrefixNode[],
  tokens: PrefixTokens,
  prefixes: PrefixCache,
): PrefixNode | undefined {
  const known = nodes[index];
  if (known !== undefined && !known.isGone) return known;
  nodes.length = index;
  const found = prefixes.find(nodes[index - 1], tokens, index);
  if (found !== undefined) nodes.push(found);
  return found;
}

/** Blocks of the first `numBlocks` nodes for each group, from its `first` one on: those in use before free ones. */
function chooseBlocks(
  nodes: readonly PrefixNode[],
  numBlocks: number,
  first: readonly number[],
  { pool, prefixes }: BlockStore,
): Int32Array[] {
  const chosen = first.map(() => new Int32Array(numBlocks));
  for (let i = Math.min(...first); i < numBlocks; i++) {
    for (const block of nodes[i]!.blocks) {
      const group = prefixes.groupOf(block);
      const blocks = chosen[group]!;
      if (i < first[group]!) continue;
      if (blocks[i] === nullBlock || pool.refCount(blocks[i]!) === 0) blocks[i] = block;
    }
  }
  return chosen;
}

function countFree(blocks: Int32Array, pool: BlockPool): number {
  let free = 0;
  for (const block of blocks) if (block !== nullBlock && pool.refCount(block) === 0) free++;
  return free;
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

  /** The blocks of the node are cached as logical block `index`; indices do not fall. */
  add(index: number, { blocks }: PrefixNode, prefixes: PrefixCache): void {
    for (const block of blocks) {
      const group = prefixes.groupOf(block);
      if (this.#last[group]! < index - 1) this.#start[group] = index;
      this.#last[group] = index;
    }
  }

  /** Whether a group without a window lacks the last of the first `numBlocks` blocks, so that nothing longer can be had. */
  cannotAgree(numBlocks: number): boolean {
    for (let g = 0; g < this.#groups.length; g++) {
      if (this.#groups[g]!.slidingWindow === 0 && this.#last[g] !== numBlocks - 1) return true;
    }
    return false;
  }

  /** Whether each group has what is needed behind the first `numBlocks` blocks. */
  agree(numBlocks: number): boolean {
    for (let g = 0; g < this.#groups.length; g++) {
      const first = firstSeenBlock(this.#groups[g]!, this.#blockSize, numBlocks * this.#blockSize);
      const isCached = this.#start[g]! <= first && this.#last[g] === numBlocks - 1;
      if (first < numBlocks && !isCached) return false;
    }
    return true;
  }
}
