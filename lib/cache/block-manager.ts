import { checkInteger } from "../arguments.js";
import { argumentError, assert } from "../errors.js";
import type { KvGroup } from "../graph/plan.js";
import { BlockPool } from "./block-pool.js";
import { BlockStore } from "./block-store.js";
import { BlockTable } from "./block-table.js";
import { checkBlocks } from "./check-blocks.js";
import { KvGroupTables } from "./kv-group-tables.js";
import { peakBlocks } from "./kv-window.js";
import { PrefixCache, type PrefixCacheOptions } from "./prefix-cache.js";
import type { CachedPrefix } from "./prefix-lookup.js";
import { PrefixSharing, type TokenSource } from "./prefix-sharing.js";

export { BlockTable, GroupBlocks } from "./block-table.js";
export type { CachedPrefix } from "./prefix-lookup.js";
export type { TokenSource } from "./prefix-sharing.js";

export interface BlockManagerOptions extends PrefixCacheOptions {
  /** Physical blocks, block 0 (the null block) included. At least 2. */
  readonly numBlocks: number;
  /** Tokens a block, 1 to 256. */
  readonly blockSize: number;
  /** Whether full blocks can be found by their tokens, and shared. @default true */
  readonly prefixSharing?: boolean;
  /**
   * Attention layers that share a list of blocks, as they have the same window; blocks that lie wholly behind it are given
   * back. @default one group without a window
   */
  readonly kvGroups?: readonly KvGroup[];
}

/** The account of one sequence. */
export interface BlockUsage {
  /** Physical blocks, of all KV groups. */
  readonly blocks: number;
  /** Blocks that others hold, too. */
  readonly sharedBlocks: number;
  /** Leading tokens that were found in the prefix cache. */
  readonly cachedTokens: number;
}

const maxInt32 = 2 ** 31 - 1;

/**
 * Hands out the slots of a paged KV cache (Kwon et al. 2023, arXiv:2309.06180): in each KV group, logical block i of a
 * sequence is physical block `table.groups[group].blocks[i]`, and the token at position p has slot
 * `block * blockSize + p % blockSize`. At most one partly filled block is wasted a sequence and group. Pure: no I/O, time
 * or randomness.
 *
 * All KV groups share one pool. A group with a sliding window gives the blocks behind it back; a sequence thus holds a
 * bounded number of them, {@link BlockManager.peakBlocks}.
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
  readonly kvGroups: readonly KvGroup[];
  readonly #pool: BlockPool;
  readonly #prefixes: PrefixCache;
  readonly #store: BlockStore;
  /** In the order of `kvGroups`. */
  readonly #groups: readonly KvGroupTables[];
  readonly #hasWindows: boolean;
  readonly #sharing: PrefixSharing;
  /** Oldest first. */
  readonly #pins: Set<BlockTable> = new Set();
  /** Free blocks that were promised to tables. */
  #numReserved = 0;

  constructor(options: BlockManagerOptions) {
    const {
      numBlocks,
      blockSize,
      prefixSharing = true,
      kvGroups = [{ slidingWindow: 0 }],
    } = options;
    this.blockSize = checkInteger("blockSize", blockSize, { min: 1, max: 256 });
    if (kvGroups.length === 0) throw argumentError("kvGroups", "at least one group", kvGroups);
    for (const [i, { slidingWindow }] of kvGroups.entries()) {
      checkInteger(`kvGroups[${i}].slidingWindow`, slidingWindow, { min: 0, max: maxInt32 });
    }
    this.kvGroups = kvGroups;
    this.#hasWindows = kvGroups.some(({ slidingWindow }) => slidingWindow > 0);
    this.#pool = new BlockPool(numBlocks);
    this.#prefixes = new PrefixCache(options);
    this.#store = new BlockStore(this.#pool, this.#prefixes);
    this.#sharing = new PrefixSharing(kvGroups, blockSize, this.#store, { isOn: prefixSharing });
    this.#groups = kvGroups.map(
      (group, index) => new KvGroupTables(index, group, blockSize, this.#store),
    );
  }

  /** Blocks that sequences can have, the null block excluded. */
  get numUsableBlocks(): number {
    return this.#pool.numUsable;
  }

  /** Blocks that can be had: cached blocks without owners included, promised ones excluded. */
  get numFreeBlocks(): number {
    return this.#pool.numFree - this.#numReserved;
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
    return this.#sharing.statistics;
  }

  // ---- accounts

  /** Logical blocks that `numTokens` tokens have. */
  blocksFor(numTokens: number): number {
    return Math.ceil(numTokens / this.blockSize);
  }

  /**
   * Blocks that a sequence alone holds at once at most until its first `numTokens` tokens are computed, at most `maxChunk`
   * a step. If the pool has as many, it can run to there.
   */
  peakBlocks(numTokens: number, maxChunk: number): number {
    return peakBlocks(this.kvGroups, this.blockSize, numTokens, maxChunk);
  }

  /** Blocks that `numTokens` more tokens would take from the pool, copies of last blocks included. */
  blocksNeeded(table: BlockTable, numTokens: number): number {
    if (numTokens <= 0) return 0;
    let needed = 0;
    for (const group of this.#groups) needed += group.blocksNeeded(table, numTokens);
    return needed;
  }

  /**
   * Blocks that the table takes from the pool at most until it has slots for `numTokens` tokens, when each step computes at
   * most `maxChunk`. It takes more where blocks behind a window are shared, as these do not come back.
   */
  blocksToReach(table: BlockTable, numTokens: number, maxChunk: number): number {
    return this.#sum((group) => group.blocksToReach(table, numTokens, maxChunk));
  }

  /** Blocks that a new sequence takes from the pool at most until its `numTokens` tokens, behind `prefix`, are computed. */
  blocksToAdmit(numTokens: number, maxChunk: number, prefix: CachedPrefix): number {
    const numFound = prefix.numTokens / this.blockSize;
    return this.#sum((group) => {
      const numFree = prefix.numFree[group.index]!;
      return group.blocksToAdmit(numTokens, maxChunk, { numFound, numFree });
    });
  }

  /** What a table holds. O(blocks). */
  usage(table: BlockTable): BlockUsage {
    const sharedBlocks = this.#sum((group) => group.numShared(table));
    return { blocks: table.numHeldBlocks, sharedBlocks, cachedTokens: table.numCachedTokens };
  }

  /** Where K and V of the token at `position` lie for the layers of `group`. It must have a slot. */
  slot(table: BlockTable, position: number, group = 0): number {
    const block = table.groups[group]!.blocks[Math.floor(position / this.blockSize)]!;
    return block * this.blockSize + (position % this.blockSize);
  }

  // ---- the life of a table

  /** Gives slots to `numTokens` more tokens, all or none. Returns false, and changes nothing, when blocks are short. */
  allocate(table: BlockTable, numTokens: number): boolean {
    const needed = this.blocksNeeded(table, numTokens);
    const promised = table.numReservedBlocks;
    if (needed > this.numFreeBlocks + promised) return false;
    if (numTokens <= 0) return true;
    this.#numReserved -= Math.min(needed, promised);
    const numBlocks = this.blocksFor(table.numTokens + numTokens);
    table.reserve(this.#groups.length, numBlocks);
    for (const group of this.#groups) group.allocate(table, numBlocks);
    table.numBlocks = numBlocks;
    table.numTokens += numTokens;
    return true;
  }

  /**
   * Keeps `numBlocks` blocks for an empty table, whatever others take: with {@link BlockManager.peakBlocks} of its tokens,
   * `allocate` does not fail for it. What it gives back behind a window is kept for it, too. Its blocks are not to be shared.
   * Returns false, and changes nothing, when blocks are short.
   */
  promise(table: BlockTable, numBlocks: number): boolean {
    assert(table.numBlocks === 0, "only an empty table is promised blocks");
    if (numBlocks > this.numFreeBlocks) return false;
    table.numPromisedBlocks = numBlocks;
    this.#numReserved += numBlocks;
    return true;
  }

  /** Takes all blocks back, the last ones first, so that a prefix is forgotten from its end. */
  free(table: BlockTable): void {
    this.#numReserved -= table.numReservedBlocks;
    table.numPromisedBlocks = 0;
    for (let i = table.numBlocks - 1; i >= 0; i--) {
      for (const group of this.#groups) group.release(table, i);
    }
    for (const group of table.groups) group.numReleased = 0;
    table.numBlocks = 0;
    table.numTokens = 0;
    table.numHashedBlocks = 0;
  }

  /** Whether the blocks that a fork of the first `numTokens` tokens would attend to are still there. */
  canFork(parent: BlockTable, numTokens: number): boolean {
    return this.#groups.every((group) => group.canFork(parent, numTokens));
  }

  /**
   * Makes `child`, which is empty, a copy of the first `numTokens` tokens of `parent` by sharing their blocks. Only
   * between steps, when K and V of these tokens are computed. Takes no block from the pool.
   */
  fork(parent: BlockTable, child: BlockTable, numTokens: number = parent.numTokens): void {
    assert(child.numBlocks === 0, "a fork's table is empty");
    assert(child.cacheSalt === parent.cacheSalt, "a fork has its parent's salt");
    assert(numTokens <= parent.numTokens, "a fork has no more tokens than its parent");
    assert(parent.numPromisedBlocks === 0, "promised blocks are not shared");
    const isSeen = this.canFork(parent, numTokens);
    assert(isSeen, "a fork does not attend to blocks that were given back");
    const numBlocks = this.blocksFor(numTokens);
    child.reserve(this.#groups.length, numBlocks);
    for (const group of this.#groups) group.fork(parent, child, numBlocks);
    child.numBlocks = numBlocks;
    child.numTokens = numTokens;
    const numFull = Math.floor(numTokens / this.blockSize);
    child.numHashedBlocks = Math.min(parent.numHashedBlocks, numFull);
  }

  /** The copies of the step, int32 [C, 2] of (from, to). What they read is kept until `finishStep`. */
  takeCopies(): Int32Array {
    return this.#store.takeCopies();
  }

  /** The step's copies have been made, or never will be. */
  finishStep(): void {
    this.#store.finishStep();
  }

  /**
   * K and V of the first `numTokens` tokens are computed, by steps that are over: full blocks can be found from now on,
   * and blocks behind windows are given back.
   */
  markComputed(table: BlockTable, tokens: TokenSource, numTokens: number): void {
    this.#sharing.add(table, tokens, numTokens);
    if (this.#hasWindows) this.releaseBehind(table, numTokens);
  }

  /** Gives blocks back that tokens from `numTokens` on do not attend to; `markComputed` does, too. */
  releaseBehind(table: BlockTable, numTokens: number): void {
    const before = table.numReservedBlocks;
    for (const group of this.#groups) group.releaseBehind(table, numTokens);
    this.#numReserved += table.numReservedBlocks - before;
  }

  /** The table's blocks can no longer be found, for content that is not to be trusted. */
  forget(table: BlockTable): void {
    this.#sharing.forget(table);
  }

  // ---- prefixes

  /**
   * The longest prefix that is cached in all KV groups and leaves at least one token to be computed, as its logits are
   * needed. Changes nothing.
   */
  findPrefix(source: TokenSource, cacheSalt: string | undefined): CachedPrefix {
    return this.#sharing.find(source, cacheSalt);
  }

  /** Begins an empty table with a prefix that was just found for its tokens and salt. */
  adopt(table: BlockTable, { blocks, numTokens }: CachedPrefix): void {
    assert(table.numBlocks === 0, "only an empty table adopts a prefix");
    const numBlocks = this.blocksFor(numTokens);
    table.reserve(this.#groups.length, numBlocks);
    for (const group of this.#groups) group.adopt(table, blocks[group.index]!);
    table.numBlocks = numBlocks;
    table.numTokens = numTokens;
    table.numHashedBlocks = numBlocks;
    table.numCachedTokens = numTokens;
  }

  /** Counts a lookup in {@link BlockManager.prefixStatistics}. */
  recordLookup(numTokens: number, numHitTokens: number): void {
    this.#sharing.recordLookup(numTokens, numHitTokens);
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
    const prefix = this.findPrefix({ tokenIds: oneMore }, cacheSalt);
    if (prefix.numFreeBlocks <= this.numFreeBlocks) this.adopt(table, prefix); // else they are promised
    return table;
  }

  /**
   * A table with blocks for a prefix of whole blocks that the cache does not hold, for its caller to fill and to free: those
   * that the token behind it attends to. Undefined where the cache holds it, or lacks free blocks.
   */
  prepare(tokenIds: Int32Array, cacheSalt: string | undefined): BlockTable | undefined {
    const table = this.hold(tokenIds, cacheSalt);
    const numTokens = tokenIds.length;
    const isHeld = table.numTokens === numTokens;
    this.free(table);
    const numBlocks = this.blocksFor(numTokens);
    const needed = this.#sum((group) => numBlocks - group.firstSeenBlock(numTokens));
    if (isHeld || needed > this.numFreeBlocks) return undefined;
    table.reserve(this.#groups.length, numBlocks);
    for (const group of this.#groups) group.prepare(table, numTokens);
    table.numBlocks = numBlocks;
    table.numTokens = numTokens;
    return table;
  }

  /** int32, all blocks that a table holds, in an order that depends on its tokens' number alone. */
  blocksOf({ groups, numBlocks, numHeldBlocks }: BlockTable): Int32Array {
    const held = new Int32Array(numHeldBlocks);
    let at = 0;
    for (const { blocks, numReleased } of groups) {
      held.set(blocks.subarray(numReleased, numBlocks), at);
      at += numBlocks - numReleased;
    }
    return held;
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

  /**
   * Throws ERR_INTERNAL unless pool and prefix cache are consistent and `tables`, all that there are but for pins, name
   * each block as often as its count says. O(blocks), for tests.
   */
  check(tables: Iterable<BlockTable>): void {
    const { blockSize, kvGroups } = this;
    const owners = { tables: [...tables, ...this.#pins], numReserved: this.#numReserved };
    checkBlocks(this.#store, { blockSize, kvGroups }, owners);
  }

  // ---- private

  #sum(count: (group: KvGroupTables) => number): number {
    let sum = 0;
    for (const group of this.#groups) sum += count(group);
    return sum;
  }
}
