import { argumentError, assert } from "../errors.js";
import { BlockPool, nullBlock } from "./block-pool.js";

/** The physical blocks of one sequence, in the order of its tokens. Only the {@link BlockManager} changes it. */
export class BlockTable {
  /** Tokens that have a slot. */
  numTokens = 0;
  /** Logical blocks in use. */
  numBlocks = 0;
  /** Physical block of each logical block; entries from `numBlocks` on are the null block. Grows. */
  blocks: Int32Array = new Int32Array(4);
}

export interface BlockManagerOptions {
  /** Physical blocks, block 0 (the null block) included. At least 2. */
  readonly numBlocks: number;
  /** Tokens a block, 1 to 256. */
  readonly blockSize: number;
}

/**
 * Hands out the slots of a paged KV cache (Kwon et al. 2023, arXiv:2309.06180): logical block i of a sequence is
 * physical block `table.blocks[i]`, and the token at position p has slot `block * blockSize + p % blockSize`.
 * At most one partly filled block is wasted a sequence. Pure: no I/O, time or randomness.
 */
export class BlockManager {
  readonly blockSize: number;
  readonly #pool: BlockPool;

  constructor({ numBlocks, blockSize }: BlockManagerOptions) {
    if (!Number.isInteger(blockSize) || blockSize < 1 || blockSize > 256) {
      throw argumentError("blockSize", "an integer in [1, 256]", blockSize);
    }
    this.blockSize = blockSize;
    this.#pool = new BlockPool(numBlocks);
  }

  /** Blocks that sequences can have, the null block excluded. */
  get numUsableBlocks(): number {
    return this.#pool.numUsable;
  }

  get numFreeBlocks(): number {
    return this.#pool.numFree;
  }

  /** Blocks that `numTokens` tokens take. */
  blocksFor(numTokens: number): number {
    return Math.ceil(numTokens / this.blockSize);
  }

  /** Blocks that `numTokens` more tokens would take from the pool. */
  blocksNeeded(table: BlockTable, numTokens: number): number {
    return Math.max(0, this.blocksFor(table.numTokens + numTokens) - table.numBlocks);
  }

  /** Gives slots to `numTokens` more tokens, all or none. Returns false, and changes nothing, when blocks are short. */
  allocate(table: BlockTable, numTokens: number): boolean {
    const needed = this.blocksNeeded(table, numTokens);
    if (needed > this.#pool.numFree) return false;
    if (table.numBlocks + needed > table.blocks.length) grow(table, table.numBlocks + needed);
    for (let i = 0; i < needed; i++) table.blocks[table.numBlocks++] = this.#pool.allocate();
    table.numTokens += numTokens;
    return true;
  }

  /** Takes all blocks back, the last one first. */
  free(table: BlockTable): void {
    while (table.numBlocks > 0) {
      const last = --table.numBlocks;
      this.#pool.release(table.blocks[last]!);
      table.blocks[last] = nullBlock;
    }
    table.numTokens = 0;
  }

  /** Where K and V of the token at `position` lie. It must have a slot. */
  slot(table: BlockTable, position: number): number {
    const block = table.blocks[Math.floor(position / this.blockSize)]!;
    return block * this.blockSize + (position % this.blockSize);
  }

  /**
   * Throws ERR_INTERNAL unless the pool is consistent and `tables`, all that there are, name each block as often as
   * its count says. O(blocks), for tests.
   */
  check(tables: Iterable<BlockTable>): void {
    this.#pool.check();
    const named = new Int32Array(this.#pool.numBlocks);
    for (const table of tables) {
      const { blocks, numBlocks, numTokens } = table;
      assert(numBlocks === this.blocksFor(numTokens), "a table is as long as its tokens need");
      for (let i = 0; i < blocks.length; i++) {
        const isUsed = blocks[i] !== nullBlock;
        assert(isUsed === i < numBlocks, "a table names blocks up to its length and no further");
        if (isUsed) named[blocks[i]!]!++;
      }
    }
    for (const [block, count] of named.entries()) {
      assert(count === this.#pool.refCount(block), `block ${block} has as many owners as tables`);
    }
  }
}

function grow(table: BlockTable, numBlocks: number): void {
  const grown = new Int32Array(Math.max(numBlocks, 2 * table.blocks.length));
  grown.set(table.blocks);
  table.blocks = grown;
}
