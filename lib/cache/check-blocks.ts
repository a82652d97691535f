import { assert } from "../errors.js";
import type { KvGroup } from "../graph/plan.js";
import { nullBlock } from "./block-pool.js";
import type { BlockStore } from "./block-store.js";
import type { BlockTable, GroupBlocks } from "./block-table.js";
import { firstSeenBlock } from "./kv-window.js";
import type { PrefixCache, PrefixNode } from "./prefix-cache.js";

/** All who own blocks. */
export interface BlockOwners {
  readonly tables: readonly BlockTable[];
  /** Free blocks that were promised to tables. */
  readonly numReserved: number;
}

interface Shape {
  readonly blockSize: number;
  readonly kvGroups: readonly KvGroup[];
}

/** Throws ERR_INTERNAL where an invariant of the block manager does not hold. O(blocks). */
export function checkBlocks(
  { pool, prefixes, held, copies }: BlockStore,
  shape: Shape,
  { tables, numReserved }: BlockOwners,
): void {
  pool.check();
  prefixes.check();
  const named = new Owners(pool.numBlocks);
  for (const block of held) named.count[block]!++;
  let reserved = 0;
  for (const table of tables) {
    checkTable(table, shape, named);
    checkHashes(table, shape.blockSize, prefixes);
    reserved += table.numReservedBlocks;
  }
  assert(reserved === numReserved, "what is reserved was promised and not taken");
  assert(numReserved <= pool.numFree, "what is reserved is free");
  for (let block = 0; block < pool.numBlocks; block++) {
    assert(
      named.count[block] === pool.refCount(block),
      `block ${block} has as many owners as its count says`,
    );
    const isCached = prefixes.nodeOf(block) !== undefined;
    assert(
      !isCached || named.group[block] === none || prefixes.groupOf(block) === named.group[block],
      "a block is cached for the group that names it",
    );
  }
  for (const [to, from] of copies) {
    assert(pool.refCount(from) > 0, "a block is kept until it has been copied");
    assert(pool.refCount(to) === 1, "a copy is made for one owner");
    assert(prefixes.nodeOf(to) === undefined, "a block that is not written yet is not cached");
    assert(!copies.has(from), "a copy does not read what another one writes");
  }
}

const none = -1;

/** Of each block. */
class Owners {
  readonly count: Int32Array;
  /** KV group of the tables that name it. */
  readonly group: Int32Array;

  constructor(numBlocks: number) {
    this.count = new Int32Array(numBlocks);
    this.group = new Int32Array(numBlocks).fill(none);
  }

  name(block: number, group: number): void {
    this.count[block]!++;
    const owner = this.group[block];
    assert(owner === none || owner === group, `block ${block} belongs to one group`);
    this.group[block] = group;
  }
}

/** Counts what the table names. */
function checkTable(table: BlockTable, { blockSize, kvGroups }: Shape, named: Owners): void {
  const { numBlocks, numTokens, groups } = table;
  assert(numBlocks === Math.ceil(numTokens / blockSize), "a table is as long as its tokens need");
  assert(groups.length === kvGroups.length || numBlocks === 0, "a table has blocks of all groups");
  for (const [g, { blocks, numReleased }] of groups.entries()) {
    const firstSeen = firstSeenBlock(kvGroups[g]!, blockSize, numTokens);
    assert(numReleased <= firstSeen, "only blocks behind the window are given back");
    for (let i = 0; i < blocks.length; i++) {
      const isUsed = blocks[i] !== nullBlock;
      const isHad = i >= numReleased && i < numBlocks;
      assert(isUsed === isHad, "a table names blocks from the window to its length, and no others");
      if (isUsed) named.name(blocks[i]!, g);
    }
  }
}

/** Blocks that are found by their tokens lie at their place, behind the block that their node names as parent. */
function checkHashes(table: BlockTable, blockSize: number, prefixes: PrefixCache): void {
  const { numHashedBlocks, numTokens, groups } = table;
  assert(numHashedBlocks * blockSize <= numTokens, "only full blocks are cached");
  let before: PrefixNode | undefined;
  for (let i = 0; i < numHashedBlocks; i++) {
    const node = nodeAt(groups, i, prefixes);
    if (i === 0) assert(node?.parent === undefined, "a first block has no parent");
    const follows = node === undefined || before === undefined || node.parent === before;
    assert(follows, "a block's parent is the one before");
    before = node;
  }
}

/** The one node of a logical block. */
function nodeAt(
  groups: readonly GroupBlocks[],
  index: number,
  prefixes: PrefixCache,
): PrefixNode | undefined {
  let found: PrefixNode | undefined;
  for (const { blocks } of groups) {
    const node = prefixes.nodeOf(blocks[index]!);
    if (node === undefined) continue;
    assert(found === undefined || found === node, "all groups' blocks hold the same tokens");
    found = node;
  }
  return found;
}
