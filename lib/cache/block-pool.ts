import { argumentError, assert } from "../errors.js";

/** Block 0 is never handed out: unused entries of block tables name it. */
export const nullBlock = 0;

/** Marks the end of the free list, and `next` of a block that is not in it. */
const none = -1;

/**
 * Reference counts of the physical blocks of a KV cache. A block is free exactly while its count is 0.
 * Every operation takes constant time; the free list runs through `#next`.
 */
export class BlockPool {
  /** Physical blocks, the null block included. */
  readonly numBlocks: number;
  /** [numBlocks], owners of each block. */
  readonly #refCount: Int32Array;
  /** [numBlocks], the free block behind a free block. */
  readonly #next: Int32Array;
  #firstFree = none;
  #numFree = 0;

  /** @param numBlocks - at least 2, the null block included */
  constructor(numBlocks: number) {
    if (!Number.isInteger(numBlocks) || numBlocks < 2 || numBlocks > 2 ** 31 - 1) {
      throw argumentError("numBlocks", "an integer in [2, 2^31 - 1]", numBlocks);
    }
    this.numBlocks = numBlocks;
    this.#refCount = new Int32Array(numBlocks);
    this.#next = new Int32Array(numBlocks).fill(none);
    for (let block = numBlocks - 1; block > nullBlock; block--) this.#putBack(block);
  }

  /** Blocks that can be had, the null block excluded. */
  get numUsable(): number {
    return this.numBlocks - 1;
  }

  get numFree(): number {
    return this.#numFree;
  }

  refCount(block: number): number {
    return this.#refCount[block] ?? 0;
  }

  /** Takes a free block; its count becomes 1. There must be one. */
  allocate(): number {
    const block = this.#firstFree;
    assert(block !== none, "a block is allocated only while one is free");
    this.#firstFree = this.#next[block]!;
    this.#next[block] = none;
    this.#numFree--;
    this.#refCount[block] = 1;
    return block;
  }

  /** One owner more. */
  retain(block: number): void {
    assert(this.refCount(block) > 0, `block ${block} is retained only while it is in use`);
    this.#refCount[block]!++;
  }

  /** One owner less; without owners the block is free and the next to be reused. */
  release(block: number): void {
    assert(this.refCount(block) > 0, `block ${block} is released only while it is in use`);
    if (--this.#refCount[block]! === 0) this.#putBack(block);
  }

  /** Throws ERR_INTERNAL unless the free list holds exactly the blocks without owners. O(numBlocks), for tests. */
  check(): void {
    const listed = new Set<number>();
    for (let block = this.#firstFree; block !== none; block = this.#next[block]!) {
      assert(!listed.has(block), `block ${block} is once in the free list`);
      assert(block !== nullBlock, "the null block is not free");
      assert(this.refCount(block) === 0, `free block ${block} has no owner`);
      listed.add(block);
    }
    assert(listed.size === this.#numFree, "the number of free blocks is that of the free list");
    let used = 0;
    for (const count of this.#refCount) if (count > 0) used++;
    assert(used + listed.size === this.numUsable, "each block is either free or in use");
    assert(this.refCount(nullBlock) === 0, "the null block has no owner");
  }

  #putBack(block: number): void {
    this.#next[block] = this.#firstFree;
    this.#firstFree = block;
    this.#numFree++;
  }
}
