import { assert } from "../errors.js";
import type { BlockPool } from "./block-pool.js";
import type { PrefixCache } from "./prefix-cache.js";

/**
 * The pool as block tables use it: blocks that are taken are forgotten by the prefix cache, blocks that are given back
 * may still be found, and what a copy of the step reads is kept until the step has run.
 */
export class BlockStore {
  readonly pool: BlockPool;
  readonly prefixes: PrefixCache;
  /** Copies of the step that is being made: the block that is read, by the block that is written. */
  readonly #copies: Map<number, number> = new Map();
  /** Blocks that copies of the step read. */
  readonly #sources: Set<number> = new Set();
  /** Blocks without owners that a copy still reads; their count is 1 until the step has run. */
  readonly #held: Set<number> = new Set();

  constructor(pool: BlockPool, prefixes: PrefixCache) {
    this.pool = pool;
    this.prefixes = prefixes;
  }

  get copies(): ReadonlyMap<number, number> {
    return this.#copies;
  }

  get held(): ReadonlySet<number> {
    return this.#held;
  }

  /** A block with one owner and nothing of worth in it. There must be a free one. */
  take(): number {
    const block = this.pool.allocate();
    this.prefixes.remove(block);
    return block;
  }

  /** One owner less. */
  release(block: number): void {
    if (this.#sources.size > 0 && this.pool.refCount(block) === 1) {
      this.#copies.delete(block); // nobody would read what it is to receive
      if (this.#sources.has(block)) {
        this.#held.add(block);
        return;
      }
    }
    this.#putBack(block);
  }

  /** Takes a block that the step makes a copy of a shared one, which has one owner less from now on. */
  copy(from: number): number {
    assert(!this.#copies.has(from), "a block is copied when it has been written");
    const to = this.take();
    this.#copies.set(to, from);
    this.#sources.add(from);
    this.release(from);
    return to;
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

  #putBack(block: number): void {
    const isCached = this.prefixes.nodeOf(block) !== undefined;
    this.pool.release(block, isCached ? "last" : "first");
  }
}

const noCopies = new Int32Array(0);
