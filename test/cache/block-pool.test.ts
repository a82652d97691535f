import { describe, expect, it } from "vitest";
import { BlockPool, nullBlock } from "../../lib/cache/block-pool.js";

describe("BlockPool", () => {
  it("hands out every block but the null block, once", () => {
    const pool = new BlockPool(5);
    const blocks = Array.from({ length: 4 }, () => pool.allocate());
    expect(blocks.toSorted()).toEqual([1, 2, 3, 4]);
    expect(blocks).not.toContain(nullBlock);
    expect(pool.numFree).toBe(0);
    expect(() => pool.allocate()).toThrow("Invariant broken");
    pool.check();
  });

  it("keeps a block while it has an owner", () => {
    const pool = new BlockPool(3);
    const block = pool.allocate();
    pool.retain(block);
    pool.release(block);
    expect(pool.numFree).toBe(1);
    expect(pool.refCount(block)).toBe(1);
    pool.release(block);
    expect(pool.numFree).toBe(2);
    pool.check();
  });

  it("reuses the block that became free last", () => {
    const pool = new BlockPool(4);
    const [first] = [pool.allocate(), pool.allocate()];
    pool.release(first!);
    expect(pool.allocate()).toBe(first);
  });

  it("reuses what is released for the last place after all other free blocks", () => {
    const pool = new BlockPool(5);
    const blocks = [1, 2, 3, 4].map(() => pool.allocate());
    pool.release(blocks[1]!, "last");
    pool.release(blocks[0]!, "first");
    pool.release(blocks[3]!, "last");
    expect([1, 2, 3].map(() => pool.allocate())).toEqual([blocks[0], blocks[1], blocks[3]]);
    pool.check();
  });

  it("takes a free block out of the middle", () => {
    const pool = new BlockPool(5);
    pool.touch(3);
    pool.touch(3);
    expect(pool.refCount(3)).toBe(2);
    expect(pool.numShared).toBe(1);
    expect([1, 2, 3].map(() => pool.allocate())).toEqual([1, 2, 4]);
    for (const bad of [0, 5, -1]) expect(() => pool.touch(bad)).toThrow("Invariant broken");
    pool.check();
  });

  it("refuses to release or retain what nobody owns", () => {
    const pool = new BlockPool(3);
    const block = pool.allocate();
    pool.release(block);
    for (const bad of [block, nullBlock, 3, -1, 0.5]) {
      expect(() => pool.release(bad), `release ${bad}`).toThrow("Invariant broken");
      expect(() => pool.retain(bad), `retain ${bad}`).toThrow("Invariant broken");
    }
    pool.check();
  });

  it.each([0, 1, -1, 1.5, NaN, 2 ** 31, "8", null])("refuses a pool of %s blocks", (numBlocks) => {
    expect(() => new BlockPool(numBlocks as number)).toThrow("`numBlocks`");
  });

  it("serves a large pool in constant time an operation", () => {
    const pool = new BlockPool(2 ** 20);
    const blocks = Array.from({ length: pool.numUsable }, () => pool.allocate());
    for (const block of blocks) pool.release(block);
    expect(pool.numFree).toBe(pool.numUsable);
  });
});
