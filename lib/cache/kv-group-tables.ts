import type { KvGroup } from "../graph/plan.js";
import { assert } from "../errors.js";
import { nullBlock, type BlockPool } from "./block-pool.js";
import type { BlockStore } from "./block-store.js";
import { GroupBlocks, type BlockTable } from "./block-table.js";
import { chunkBlocks, firstSeenBlock } from "./kv-window.js";

/** What the block tables of all sequences have in one KV group. The caller keeps what is common to all groups. */
export class KvGroupTables {
  /** Place among the groups. */
  readonly index: number;
  readonly group: KvGroup;
  readonly #blockSize: number;
  readonly #store: BlockStore;
  readonly #pool: BlockPool;

  constructor(index: number, group: KvGroup, blockSize: number, store: BlockStore) {
    this.index = index;
    this.group = group;
    this.#blockSize = blockSize;
    this.#store = store;
    this.#pool = store.pool;
  }

  /** Blocks that `numTokens` more tokens would take from the pool, a copy of the last block included. */
  blocksNeeded(table: BlockTable, numTokens: number): number {
    const added = Math.ceil((table.numTokens + numTokens) / this.#blockSize) - table.numBlocks;
    return this.#mustCopy(table) ? added + 1 : added;
  }

  /**
   * Blocks that the table takes from the pool at most, until its sequence has slots for `numTokens` tokens, when each step
   * allocates at most `maxChunk` and blocks behind the window are given back in between.
   */
  blocksToReach(table: BlockTable, numTokens: number, maxChunk: number): number {
    const remaining = numTokens - table.numTokens;
    if (remaining <= 0) return 0;
    const { numReleased } = this.#of(table);
    const all = Math.ceil(numTokens / this.#blockSize) - numReleased;
    const chunk = Math.min(maxChunk, remaining);
    const peak = Math.min(all, chunkBlocks(this.group.slidingWindow, this.#blockSize, chunk));
    const added = Math.max(0, peak - (table.numBlocks - numReleased));
    return this.#mustCopy(table) ? added + 1 : added;
  }

  /**
   * Blocks that a new sequence takes from the pool at most until its `numTokens` tokens are computed. It begins with
   * `numFound` cached blocks, `numFree` of them free; of those that are in use, none comes back when it is given back.
   */
  blocksToAdmit(
    numTokens: number,
    maxChunk: number,
    { numFound, numFree }: { readonly numFound: number; readonly numFree: number },
  ): number {
    const all = Math.ceil(numTokens / this.#blockSize) - numFound + numFree;
    const chunk = Math.min(maxChunk, numTokens - numFound * this.#blockSize);
    return Math.min(all, chunkBlocks(this.group.slidingWindow, this.#blockSize, chunk));
  }

  /** Has blocks up to logical block `numBlocks`, and a last one that may be written. The pool must have enough. */
  allocate(table: BlockTable, numBlocks: number): void {
    const { blocks } = this.#of(table);
    this.#makeWritable(table, blocks);
    for (let i = table.numBlocks; i < numBlocks; i++) blocks[i] = this.#store.take();
  }

  /** Gives logical block `index` back. */
  release(table: BlockTable, index: number): void {
    const { blocks } = this.#of(table);
    if (blocks[index] === nullBlock) return;
    this.#store.release(blocks[index]!);
    blocks[index] = nullBlock;
  }

  /** Gives the blocks back that the token at position `numTokens` does not attend to. */
  releaseBehind(table: BlockTable, numTokens: number): void {
    const group = this.#of(table);
    const first = this.firstSeenBlock(numTokens);
    while (group.numReleased < first) this.release(table, group.numReleased++);
  }

  /** Whether the blocks that a fork of the first `numTokens` tokens would attend to are still there. */
  canFork(parent: BlockTable, numTokens: number): boolean {
    const first = this.firstSeenBlock(numTokens);
    return first >= this.#of(parent).numReleased;
  }

  /** Shares the first `numBlocks` blocks. */
  fork(parent: BlockTable, child: BlockTable, numBlocks: number): void {
    const from = this.#of(parent);
    const to = this.#of(child);
    for (let i = from.numReleased; i < numBlocks; i++) {
      const block = from.blocks[i]!;
      assert(!this.#store.copies.has(block), "a block is forked when its copy has been made");
      this.#pool.retain(block);
      to.blocks[i] = block;
    }
    to.numReleased = from.numReleased;
  }

  /** Takes blocks that were found; null blocks stand before the window. */
  adopt(table: BlockTable, blocks: Int32Array): void {
    const group = this.#of(table);
    group.blocks.set(blocks);
    for (const [i, block] of blocks.entries()) {
      if (block === nullBlock) group.numReleased = i + 1;
      else this.#pool.touch(block);
    }
  }

  /** First logical block that the token at position `numTokens` attends to. */
  firstSeenBlock(numTokens: number): number {
    return firstSeenBlock(this.group, this.#blockSize, numTokens);
  }

  /** Begins an empty table with new blocks, from the first one that the token at position `numTokens` attends to. */
  prepare(table: BlockTable, numTokens: number): void {
    const group = this.#of(table);
    group.numReleased = this.firstSeenBlock(numTokens);
    const numBlocks = Math.ceil(numTokens / this.#blockSize);
    for (let i = group.numReleased; i < numBlocks; i++) group.blocks[i] = this.#store.take();
  }

  /** Blocks that others hold, too. */
  numShared(table: BlockTable): number {
    const { blocks, numReleased } = this.#of(table);
    let shared = 0;
    for (let i = numReleased; i < table.numBlocks; i++) {
      if (this.#pool.refCount(blocks[i]!) > 1) shared++;
    }
    return shared;
  }

  #of(table: BlockTable): GroupBlocks {
    return table.groups[this.index] ?? noBlocks;
  }

  /** Whether the next token goes to a block with several owners. */
  #mustCopy(table: BlockTable): boolean {
    if (table.numTokens % this.#blockSize === 0) return false;
    return this.#pool.refCount(this.#of(table).blocks[table.numBlocks - 1]!) > 1;
  }

  /** A partial last block gets one owner. It is cached where this is a fork of the beginning of a sequence that is gone. */
  #makeWritable(table: BlockTable, blocks: Int32Array): void {
    if (table.numTokens % this.#blockSize === 0) return;
    const last = table.numBlocks - 1;
    if (this.#mustCopy(table)) blocks[last] = this.#store.copy(blocks[last]!);
    else this.#store.prefixes.remove(blocks[last]!);
  }
}

/** Of a table that never had any. */
const noBlocks: GroupBlocks = Object.freeze(new GroupBlocks());
