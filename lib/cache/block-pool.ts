import { argumentError, assert } from "../errors.js";

/** Block 0 is never handed out: unused entries of block tables name it. It is also both ends of the free list. */
export const nullBlock = 0;

/** `next` of a block that is not in the free list. */
const none = -1;

/**
 * Reference counts of the physical blocks of a KV cache. A block is free exactly while its count is 0.
 *
 * Free blocks form a ring through the null block, linked in both directions, so that any of them can be taken out of the
 * middle. They are handed out from the front: whoever releases a block chooses whether it is reused first or last.
 * Every operation takes constant time.
 */
export class BlockPool {
  /** Physical blocks, the null block included. */
  readonly numBlocks: number;
  /** [numBlocks], owners of each block. */
  readonly #refCount: Int32Array;
  /** [numBlocks], the free blocks behind and in front of a free block. */
  readonly #next: Int32Array;
  readonly #previous: Int32Array;
  #numFree = 0;
  #numShared = 0;

  /** @param numBlocks - at least 2, the null block included */
  constructor(numBlocks: number) {
    if (!Number.isInteger(numBlocks) || numBlocks < 2 || numBlocks > 2 ** 31 - 1) {
      throw argumentError("numBlocks", "an integer in [2, 2^31 - 1]", numBlocks);
    }
    this.numBlocks = numBlocks;
    this.#refCount = new Int32Array(numBlocks);
    this.#next = new Int32Array(numBlocks);
    this.#previous = new Int32Array(numBlocks);
    for (let block = nullBlock + 1; block < numBlocks; block++) this.#link(block, "last");
  }

  /** Blocks that can be had, the null block excluded. */
  get numUsable(): number {
    return this.numBlocks - 1;
  }

  get numFree(): number {
    return this.#numFree;
  }

  /** Blocks with several owners. */
  get numShared(): number {
    return this.#numShared;
  }

  refCount(block: number): number {
    return this.#refCount[block] ?? 0;
  }

  /** Takes the free block at the front; its count becomes 1. There must be one. */
  allocate(): number {
    const block = this.#next[nullBlock]!;
    assert(block !== nullBlock, "a block is allocated only while one is free");
    this.#unlink(block);
    this.#refCount[block] = 1;
    return block;
  }

  /** One owner more, of a block in use or of a free one, which is then no longer free. */
  touch(block: number): void {
    if (this.refCount(block) > 0) return this.retain(block);
    assert(block > nullBlock && block < this.numBlocks, `block ${block} can be had`);
    this.#unlink(block);
    this.#refCount[block] = 1;
  }

  /** One owner more. */
  retain(block: number): void {
    assert(this.refCount(block) > 0, `block ${block} is retained only while it is in use`);
    if (++this.#refCount[block]! === 2) this.#numShared++;
  }

  /** One owner less; without owners the block is free, and reused before or after all others that are free now. */
  release(block: number, reused: "first" | "last" = "first"): void {
    const count = this.refCount(block) - 1;
    assert(count >= 0, `block ${block} is released only while it is in use`);
    this.#refCount[block] = count;
    if (count === 1) this.#numShared--;
    if (count === 0) this.#link(block, reused);
  }

  /** Throws ERR_INTERNAL unless the free list holds exactly the blocks without owners. O(numBlocks), for tests. */
  check(): void {
    let listed = 0;
    for (let b = this.#next[nullBlock]!; b !== nullBlock; b = this.#next[b]!) {
      assert(++listed <= this.#numFree, "each free block is once in the free list");
      assert(this.#refCount[b] === 0, `free block ${b} has no owner`);
      assert(this.#previous[this.#next[b]!] === b, "the free list is linked in both directions");
    }
    assert(listed === this.#numFree, "the number of free blocks is that of the free list");
    let used = 0;
    let shared = 0;
    for (let block = 0; block < this.numBlocks; block++) {
      const count = this.#refCount[block]!;
      if (count > 0) used++;
      if (count > 1) shared++;
      const isListed = block === nullBlock || this.#next[block] !== none;
      assert(isListed === (count === 0), `block ${block} is in the free list or has an owner`);
    }
    assert(used + listed === this.numUsable, "each block is either free or in use");
    assert(shared === this.#numShared, "the number of shared blocks is that of counts above 1");
    assert(this.refCount(nullBlock) === 0, "the null block has no owner");
  }

  #link(block: number, where: "first" | "last"): void {
    const previous = where === "first" ? nullBlock : this.#previous[nullBlock]!;
    const next = this.#next[previous]!;
    this.#next[previous] = block;
    this.#previous[block] = previous;
    this.#next[block] = next;
    this.#previous[next] = block;
    this.#numFree++;
  }

  #unlink(block: number): void {
    const previous = this.#previous[block]!;
    const next = this.#next[block]!;
    this.#next[previous] = next;
    this.#previous[next] = previous;
    this.#next[block] = none;
    this.#numFree--;
  }
}
