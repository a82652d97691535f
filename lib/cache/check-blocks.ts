import { assert } from "../errors.js";
import { nullBlock, type BlockPool } from "./block-pool.js";
import type { BlockTable } from "./block-table.js";
import type { PrefixCache } from "./prefix-cache.js";

/** All who own blocks. */
export interface BlockOwners {
  readonly tables: readonly BlockTable[];
  /** Blocks that wait for a copy to read them. */
  readonly held: ReadonlySet<number>;
  /** Block read by the block written. */
  readonly copies: ReadonlyMap<number, number>;
}

/** Throws ERR_INTERNAL where an invariant of the block manager does not hold. O(blocks). */
export function checkBlocks(
  pool: BlockPool,
  prefixes: PrefixCache,
  blockSize: number,
  { tables, held, copies }: BlockOwners,
): void {
  pool.check();
  prefixes.check();
  const named = new Int32Array(pool.numBlocks);
  for (const block of held) named[block]!++;
  for (const table of tables) {
    checkTable(table, blockSize, named);
    for (let i = 0; i < table.numHashedBlocks; i++) checkHash(table, i, blockSize, prefixes);
  }
  for (let block = 0; block < named.length; block++) {
    assert(
      named[block] === pool.refCount(block),
      `block ${block} has as many owners as its count says`,
    );
  }
  for (const [to, from] of copies) {
    assert(pool.refCount(from) > 0, "a block is kept until it has been copied");
    assert(pool.refCount(to) === 1, "a copy is made for one owner");
    assert(prefixes.nodeOf(to) === undefined, "a block that is not written yet is not cached");
    assert(!copies.has(from), "a copy does not read what another one writes");
  }
}

/** Counts what the table names. */
function checkTable(table: BlockTable, blockSize: number, named: Int32Array): void {
  const { blocks, numBlocks, numTokens, numReleasedBlocks } = table;
  assert(numBlocks === Math.ceil(numTokens / blockSize), "a table is as long as its tokens need");
  assert(numReleasedBlocks <= numBlocks, "only blocks that were had are given back");
  for (let i = 0; i < blocks.length; i++) {
    const isUsed = blocks[i] !== nullBlock;
    const isHad = i >= numReleasedBlocks && i < numBlocks;
    assert(isUsed === isHad, "a table names blocks from the window to its length, and no others");
    if (isUsed) named[blocks[i]!]!++;
  }
}

/** A block that is found by its tokens lies at their place, behind the block that its node names as parent. */
function checkHash(
  { blocks, numTokens, numReleasedBlocks }: BlockTable,
  index: number,
  blockSize: number,
  prefixes: PrefixCache,
): void {
  assert((index + 1) * blockSize <= numTokens, "only full blocks are cached");
  const node = index < numReleasedBlocks ? undefined : prefixes.nodeOf(blocks[index]!);
  if (node === undefined) return;
  if (index === 0) assert(node.parentId === 0, "a first block has no parent");
  if (index <= numReleasedBlocks) return;
  const parent = prefixes.nodeOf(blocks[index - 1]!);
  assert(parent === undefined || parent.id === node.parentId, "a block's parent is the one before");
}
