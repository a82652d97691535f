import { checkInteger } from "../arguments.js";
import { assert } from "../errors.js";
import { BlockPool, nullBlock } from "./block-pool.js";
import { BlockTable } from "./block-table.js";
import { checkBlocks } from "./check-blocks.js";
import { PrefixCache, type PrefixCacheOptions, type PrefixNode } from "./prefix-cache.js";

export { BlockTable } from "./block-table.js";

export interface BlockManagerOptions extends PrefixCacheOptions {
  /** Physical blocks, block 0 (the null block) included. At least 2. */
  readonly numBlocks: number;
  /** Tokens a block, 1 to 256. */
  readonly blockSize: number;
  /** Whether full blocks can be found by their tokens, and shared. @default true */
  readonly prefixSharing?: boolean;
  /**
   * Tokens that each token attends to, itself included, in every layer; blocks wholly behind them are given back.
   * @default all
   */
  readonly slidingWindow?: number;
}

/** Whoever has tokens; a view that is asked for only when it is needed. */
export interface TokenSource {
  /** int32 [at least as many as are computed] */
  readonly tokenIds: Int32Array;
}

/** Cached blocks that hold the first tokens of a sequence. Valid until anything changes in the block manager. */
export interface CachedPrefix {
  readonly blocks: readonly number[];
  /** `blockSize` a block. */
  readonly numTokens: number;
  /** How many of the blocks are free: taking the prefix takes them from the pool. */
  readonly numFreeBlocks: number;
}

/** The account of one sequence. */
export interface BlockUsage {
  readonly blocks: number;
  /** Blocks that others hold, too. */
  readonly sharedBlocks: number;
  /** Leading tokens that were found in the prefix cache. */
  readonly cachedTokens: number;
}

const noPrefix: CachedPrefix = { blocks: [], numTokens: 0, numFreeBlocks: 0 };

/**
 * Hands out the slots of a paged KV cache (Kwon et al. 2023, arXiv:2309.06180): logical block i of a sequence is
 * physical block `table.blocks[i]`, and the token at position p has slot `block * blockSize + p % blockSize`.
 * At most one partly filled block is wasted a sequence. Pure: no I/O, time or randomness.
 *
 * Blocks are shared in two ways. `findPrefix` and `adopt` take full blocks that hold the same tokens; `fork` takes all
 * blocks of another table, the partial last one included. A block is written only while it has one owner and cannot be
 * found in the prefix cache: `allocate` replaces a shared last block by a copy (copy-on-write), and the last owner writes
 * in place.
 *
 * A step is: any number of `allocate`; `takeCopies`, which the step runs before anything else; `finishStep` once it ran;
 * `markComputed` for each table. Free blocks that are cached are reused last, the least recently used one first.
 */
export class BlockManager {
  readonly blockSize: number;
  readonly #pool: BlockPool;
  readonly #prefixes: PrefixCache;
  readonly #isSharing: boolean;
  /** Infinity: none. */
  readonly #slidingWindow: number;
  /** Copies of the step that is being made, by the block that is written. */
  readonly #copies: Map<number, number> = new Map();
  /** Blocks that copies of the step read. */
  readonly #sources: Set<number> = new Set();
  /** Blocks without owners that a copy still reads; their count is 1 until the step has run. */
  readonly #held: Set<number> = new Set();
  /** Oldest first. */
  readonly #pins: Set<BlockTable> = new Set();
  #numQueriedTokens = 0;
  #numHitTokens = 0;

  constructor(options: BlockManagerOptions) {
    const { numBlocks, blockSize, prefixSharing = true, slidingWindow } = options;
    this.blockSize = checkInteger("blockSize", blockSize, { min: 1, max: 256 });
    const window = { min: 1, max: 2 ** 31 - 1 };
    this.#slidingWindow =
      slidingWindow === undefined ? Infinity : checkInteger("slidingWindow", slidingWindow, window);
    this.#isSharing = prefixSharing;
    this.#pool = new BlockPool(numBlocks);
    this.#prefixes = new PrefixCache(options);
  }

  /** Blocks that sequences can have, the null block excluded. */
  get numUsableBlocks(): number {
    return this.#pool.numUsable;
  }

  /** Cached blocks without owners included. */
  get numFreeBlocks(): number {
    return this.#pool.numFree;
  }

  /** Blocks that can be found by their tokens, in use or free. */
  get numCachedBlocks(): number {
    return this.#prefixes.numBlocks;
  }

  /** Blocks with several owners. */
  get numSharedBlocks(): number {
    return this.#pool.numShared;
  }

  /** Tokens of all sequences that were looked up, and how many of them were found. */
  get prefixStatistics(): { readonly queriedTokens: number; readonly hitTokens: number } {
    return { queriedTokens: this.#numQueriedTokens, hitTokens: this.#numHitTokens };
  }

  /** Blocks that `numTokens` tokens take. */
  blocksFor(numTokens: number): number {
    return Math.ceil(numTokens / this.blockSize);
  }

  /** Blocks that `numTokens` more tokens would take from the pool, a copy of the last block included. */
  blocksNeeded(table: BlockTable, numTokens: number): number {
    if (numTokens <= 0) return 0;
    const added = this.blocksFor(table.numTokens + numTokens) - table.numBlocks;
    return this.#mustCopy(table) ? added + 1 : added;
  }

  /** Gives slots to `numTokens` more tokens, all or none. Returns false, and changes nothing, when blocks are short. */
  allocate(table: BlockTable, numTokens: number): boolean {
    const needed = this.blocksNeeded(table, numTokens);
    if (needed > this.#pool.numFree) return false;
    if (numTokens > 0) this.#makeWritable(table);
    const numBlocks = this.blocksFor(table.numTokens + numTokens);
    table.reserve(numBlocks);
    while (table.numBlocks < numBlocks) table.blocks[table.numBlocks++] = this.#takeBlock();
    table.numTokens += numTokens;
    return true;
  }

  /** Takes all blocks back, the last one first, so that a prefix is forgotten from its end. */
  free(table: BlockTable): void {
    for (let i = table.numBlocks - 1; i >= table.numReleasedBlocks; i--) {
      this.#release(table.blocks[i]!);
      table.blocks[i] = nullBlock;
    }
    table.numBlocks = 0;
    table.numTokens = 0;
    table.numReleasedBlocks = 0;
    table.numHashedBlocks = 0;
  }

  /** Whether the blocks that a fork of the first `numTokens` tokens would attend to are still there. */
  canFork(parent: BlockTable, numTokens: number): boolean {
    const firstSeen = Math.max(0, numTokens - this.#slidingWindow + 1);
    return Math.floor(firstSeen / this.blockSize) >= parent.numReleasedBlocks;
  }

  /**
   * Makes `child`, which is empty, a copy of the first `numTokens` tokens of `parent` by sharing their blocks. Only
   * between steps, when K and V of these tokens are computed. Takes no block from the pool.
   */
  fork(parent: BlockTable, child: BlockTable, numTokens: number = parent.numTokens): void {
    assert(child.numBlocks === 0, "a fork's table is empty");
    assert(child.cacheSalt === parent.cacheSalt, "a fork has its parent's salt");
    assert(numTokens <= parent.numTokens, "a fork has no more tokens than its parent");
    assert(
      this.canFork(parent, numTokens),
      "a fork does not attend to blocks that were given back",
    );
    const numBlocks = this.blocksFor(numTokens);
    child.reserve(numBlocks);
    for (let i = 0; i < numBlocks; i++) {
      const block = parent.blocks[i]!;
      assert(!this.#copies.has(block), "a block is forked when its copy has been made");
      if (block !== nullBlock) this.#pool.retain(block);
      child.blocks[i] = block;
    }
    child.numBlocks = numBlocks;
    child.numTokens = numTokens;
    child.numReleasedBlocks = parent.numReleasedBlocks;
    child.numHashedBlocks = Math.min(
      parent.numHashedBlocks,
      Math.floor(numTokens / this.blockSize),
    );
  }

  /** The copies of the step, int32 [C, 2] of (from, to). What they read is kept until `finishStep`. */
  takeCopies(): Int32Array {
    if (this.#copies.size === 0) return noCopies;
    return Int32Array.from([...this.#copies].flatMap(([to, from]) => [from, to]));
  }

  /** The step's copies have been made, or never will be. */
  finishStep(): void {
    if (this.#sources.size === 0) return;
    this.#copies.clear();
    this.#sources.clear();
    for (const block of this.#held) this.#putBack(block);
    this.#held.clear();
  }

  /**
   * K and V of the first `numTokens` tokens are computed, by steps that are over: full blocks can be found from now on,
   * and blocks behind the window are given back.
   */
  markComputed(table: BlockTable, tokens: TokenSource, numTokens: number): void {
    const numFull = Math.floor(numTokens / this.blockSize);
    if (this.#isSharing && table.numHashedBlocks < numFull) {
      this.#addToCache(table, tokens.tokenIds, numFull);
    }
    // The next token is at position numTokens and attends to `slidingWindow` positions, its own included.
    const firstSeen = numTokens - this.#slidingWindow + 1;
    if (firstSeen > 0) this.#releaseBehind(table, Math.floor(firstSeen / this.blockSize));
  }

  /** The table's blocks can no longer be found, for content that is not to be trusted. */
  forget(table: BlockTable): void {
    for (let i = 0; i < table.numBlocks; i++) this.#prefixes.remove(table.blocks[i]!);
  }

  /**
   * The longest run of cached blocks from the start that leaves at least one token to be computed, as its logits are
   * needed. Changes nothing.
   */
  findPrefix({ tokenIds }: TokenSource, cacheSalt: string | undefined): CachedPrefix {
    if (!this.#isSharing || this.#prefixes.numBlocks === 0) return noPrefix;
    const blocks: number[] = [];
    let numFreeBlocks = 0;
    let node: PrefixNode | undefined;
    for (let end = this.blockSize; end < tokenIds.length; end += this.blockSize) {
      node = this.#prefixes.find(node, tokenIds, end - this.blockSize, cacheSalt);
      if (node === undefined) break;
      const used = node.blocks.find((block) => this.#pool.refCount(block) > 0);
      if (used === undefined) numFreeBlocks++;
      blocks.push(used ?? node.blocks[0]!);
    }
    return { blocks, numTokens: blocks.length * this.blockSize, numFreeBlocks };
  }

  /** Begins an empty table with a prefix that was just found for its tokens and salt. */
  adopt(table: BlockTable, { blocks, numTokens }: CachedPrefix): void {
    assert(table.numBlocks === 0, "only an empty table adopts a prefix");
    table.reserve(blocks.length);
    for (const [i, block] of blocks.entries()) {
      this.#pool.touch(block);
      table.blocks[i] = block;
    }
    table.numBlocks = blocks.length;
    table.numTokens = numTokens;
    table.numHashedBlocks = blocks.length;
    table.numCachedTokens = numTokens;
  }

  /** Counts a lookup in {@link BlockManager.prefixStatistics}. */
  recordLookup(numTokens: number, numHitTokens: number): void {
    if (!this.#isSharing) return;
    this.#numQueriedTokens += numTokens;
    this.#numHitTokens += numHitTokens;
  }

  /**
   * Keeps what is cached now of a prefix, whole blocks only, from being reused. The pin's `numTokens` says how much.
   * A scheduler gives pins up, oldest first, before a sequence has to wait for blocks or is preempted.
   */
  pin(tokenIds: Int32Array, cacheSalt?: string): BlockTable {
    const pin = this.hold(tokenIds, cacheSalt);
    this.#pins.add(pin);
    return pin;
  }

  /** A table of what is cached now of a prefix, whole blocks only, for its caller to free. */
  hold(tokenIds: Int32Array, cacheSalt: string | undefined): BlockTable {
    const table = new BlockTable(cacheSalt);
    const oneMore = new Int32Array(tokenIds.length + 1); // a lookup leaves one token to be computed
    oneMore.set(tokenIds);
    this.adopt(table, this.findPrefix({ tokenIds: oneMore }, cacheSalt));
    return table;
  }

  /**
   * A table with blocks for a prefix of whole blocks that the cache does not hold, for its caller to fill and to free.
   * Undefined where the cache holds it, or lacks free blocks.
   */
  prepare(tokenIds: Int32Array, cacheSalt: string | undefined): BlockTable | undefined {
    const table = this.hold(tokenIds, cacheSalt);
    const isHeld = table.numTokens === tokenIds.length;
    this.free(table);
    return !isHeld && this.allocate(table, tokenIds.length) ? table : undefined;
  }

  /** int32, all blocks that a table holds, in an order that depends on its tokens' number alone. */
  blocksOf({ blocks, numReleasedBlocks, numBlocks }: BlockTable): Int32Array {
    return blocks.slice(numReleasedBlocks, numBlocks);
  }

  /** Nothing happens when the pin was given up. */
  unpin(pin: BlockTable): void {
    if (this.#pins.delete(pin)) this.free(pin);
  }

  /** Gives the oldest pin up. False when there is none. */
  unpinOldest(): boolean {
    for (const pin of this.#pins) {
      this.unpin(pin);
      return true;
    }
    return false;
  }

  /** Forgets all prefixes and gives all pins up. Sequences keep their blocks. */
  resetPrefixCache(): void {
    while (this.unpinOldest());
    this.#prefixes.clear();
  }

  /** What a table holds. O(blocks). */
  usage(table: BlockTable): BlockUsage {
    let sharedBlocks = 0;
    for (let i = table.numReleasedBlocks; i < table.numBlocks; i++) {
      if (this.#pool.refCount(table.blocks[i]!) > 1) sharedBlocks++;
    }
    const blocks = table.numBlocks - table.numReleasedBlocks;
    return { blocks, sharedBlocks, cachedTokens: table.numCachedTokens };
  }

  /** Where K and V of the token at `position` lie. It must have a slot. */
  slot(table: BlockTable, position: number): number {
    const block = table.blocks[Math.floor(position / this.blockSize)]!;
    return block * this.blockSize + (position % this.blockSize);
  }

  /**
   * Throws ERR_INTERNAL unless pool and prefix cache are consistent and `tables`, all that there are but for pins, name
   * each block as often as its count says. O(blocks), for tests.
   */
  check(tables: Iterable<BlockTable>): void {
    checkBlocks(this.#pool, this.#prefixes, this.blockSize, {
      tables: [...tables, ...this.#pins],
      held: this.#held,
      copies: this.#copies,
    });
  }

  /** Whether the next token goes to a block with several owners. */
  #mustCopy(table: BlockTable): boolean {
    if (table.numTokens % this.blockSize === 0) return false;
    return this.#pool.refCount(table.blocks[table.numBlocks - 1]!) > 1;
  }

  /** A partial last block gets one owner. It is cached where this is a fork of the beginning of a sequence that is gone. */
  #makeWritable(table: BlockTable): void {
    if (table.numTokens % this.blockSize === 0) return;
    if (this.#mustCopy(table)) this.#copyLast(table);
    else this.#prefixes.remove(table.blocks[table.numBlocks - 1]!);
  }

  #copyLast(table: BlockTable): void {
    const last = table.numBlocks - 1;
    const from = table.blocks[last]!;
    const to = this.#takeBlock();
    assert(!this.#copies.has(from), "a block is copied when it has been written");
    this.#copies.set(to, from);
    this.#sources.add(from);
    table.blocks[last] = to;
    this.#release(from);
  }

  #takeBlock(): number {
    const block = this.#pool.allocate();
    this.#prefixes.remove(block);
    return block;
  }

  #release(block: number): void {
    if (this.#sources.size > 0 && this.#pool.refCount(block) === 1) {
      this.#copies.delete(block); // nobody would read what it is to receive
      if (this.#sources.has(block)) {
        this.#held.add(block);
        return;
      }
    }
    this.#putBack(block);
  }

  #putBack(block: number): void {
    const isCached = this.#prefixes.nodeOf(block) !== undefined;
    this.#pool.release(block, isCached ? "last" : "first");
  }

  /** Stops where the block before is not in the cache: nobody could find what follows. */
  #addToCache(table: BlockTable, tokenIds: Int32Array, numFull: number): void {
    let parent: PrefixNode | undefined;
    while (table.numHashedBlocks < numFull) {
      const index = table.numHashedBlocks;
      if (index > 0) parent = this.#prefixes.nodeOf(table.blocks[index - 1]!);
      if (index > 0 && parent === undefined) return;
      const block = table.blocks[index]!;
      if (this.#prefixes.nodeOf(block) === undefined) {
        this.#prefixes.add(block, parent, tokenIds, index * this.blockSize, table.cacheSalt);
      }
      table.numHashedBlocks++;
    }
  }

  #releaseBehind(table: BlockTable, numBlocks: number): void {
    while (table.numReleasedBlocks < numBlocks) {
      const index = table.numReleasedBlocks++;
      this.#release(table.blocks[index]!);
      table.blocks[index] = nullBlock;
    }
  }
}

const noCopies = new Int32Array(0);
