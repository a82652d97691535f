import { describe, expect, it } from "vitest";
import { hashSalt, hashTokens } from "../../lib/cache/block-hash.js";
import {
  BlockManager,
  BlockTable,
  type BlockManagerOptions,
} from "../../lib/cache/block-manager.js";
import type { CacheEvent } from "../../lib/cache/prefix-cache.js";
import { createRandom } from "../support/random.js";

/** Computes a whole prompt, as a scheduler would. Returns its table and how many tokens it found. */
function compute(blocks: BlockManager, prompt: readonly number[], cacheSalt?: string) {
  const tokens = { tokenIds: Int32Array.from(prompt) };
  const table = new BlockTable(cacheSalt);
  blocks.adopt(table, blocks.findPrefix(tokens, cacheSalt));
  expect(blocks.allocate(table, prompt.length - table.numTokens)).toBe(true);
  blocks.finishStep();
  blocks.markComputed(table, tokens, prompt.length);
  return table;
}

function found(blocks: BlockManager, prompt: readonly number[], cacheSalt?: string): number {
  return blocks.findPrefix({ tokenIds: Int32Array.from(prompt) }, cacheSalt).numTokens;
}

const count = (length: number, from = 0) => Array.from({ length }, (_, i) => from + i);
const manager = (options: Partial<BlockManagerOptions> = {}) =>
  new BlockManager({ numBlocks: 9, blockSize: 4, ...options });

describe("the prefix cache", () => {
  it("finds whole blocks, at most all tokens but the last", () => {
    const blocks = manager();
    compute(blocks, count(14));
    expect(found(blocks, count(14))).toBe(12);
    expect(found(blocks, count(12))).toBe(8);
    expect(found(blocks, count(13))).toBe(12);
    expect(found(blocks, count(4))).toBe(0);
    expect(found(blocks, [...count(9), 99, 99, 99, 99])).toBe(8);
    expect(found(blocks, count(14, 1))).toBe(0);
  });

  it("tells equal tokens behind different beginnings apart", () => {
    const blocks = manager();
    compute(blocks, [1, 1, 1, 1, 5, 5, 5, 5, 0]);
    compute(blocks, [2, 2, 2, 2, 6, 6, 6, 6, 0]);
    expect(found(blocks, [1, 1, 1, 1, 6, 6, 6, 6, 0])).toBe(4);
    expect(found(blocks, [5, 5, 5, 5, 0])).toBe(0);
  });

  it("forgets the least recently used prefix first, from its end", () => {
    const blocks = manager();
    const [old, young] = [compute(blocks, count(16)), compute(blocks, count(16, 100))];
    blocks.free(young);
    blocks.free(old);
    expect(blocks.numFreeBlocks).toBe(8);
    expect(blocks.numCachedBlocks).toBe(8);
    blocks.free(compute(blocks, count(12, 200)));
    expect(found(blocks, [...count(16, 100), 0])).toBe(4);
    expect(found(blocks, [...count(16), 0])).toBe(16);
  });

  it("reuses blocks that nobody can find before those that are cached", () => {
    const blocks = manager();
    blocks.free(compute(blocks, count(15)));
    const table = new BlockTable();
    blocks.allocate(table, 20);
    expect(found(blocks, count(15))).toBe(12);
  });

  it("keeps the blocks of a hit from being reused", () => {
    const blocks = manager();
    blocks.free(compute(blocks, count(16)));
    const again = compute(blocks, [...count(16), 1]);
    const table = new BlockTable();
    expect(blocks.allocate(table, 17)).toBe(false);
    expect(blocks.allocate(table, 12)).toBe(true);
    blocks.check([again, table]);
    expect(again.numCachedTokens).toBe(16);
  });

  it("keeps several blocks of the same tokens apart, and finds one while any is left", () => {
    const blocks = manager();
    const tables = [new BlockTable(), new BlockTable()];
    const tokens = { tokenIds: Int32Array.from(count(9)) };
    for (const table of tables) blocks.allocate(table, 9);
    for (const table of tables) blocks.markComputed(table, tokens, 9);
    blocks.check(tables);
    expect(blocks.numCachedBlocks).toBe(4);
    blocks.free(tables[0]!);
    const hit = blocks.findPrefix(tokens, undefined);
    expect(hit).toMatchObject({ numTokens: 8, numFreeBlocks: 0 });
    expect(hit.blocks).toEqual([tables[1]!.groups[0]!.blocks.slice(0, 2)]);
  });

  it("is off where it is not wanted", () => {
    const blocks = manager({ prefixSharing: false });
    compute(blocks, count(14));
    expect(found(blocks, count(14))).toBe(0);
    expect(blocks.numCachedBlocks).toBe(0);
    blocks.recordLookup(14, 0);
    expect(blocks.prefixStatistics).toEqual({ queriedTokens: 0, hitTokens: 0 });
  });

  it("finds nothing after a reset, nor what a running sequence adds to a forgotten beginning", () => {
    const blocks = manager();
    const table = compute(blocks, count(8));
    blocks.resetPrefixCache();
    expect(found(blocks, count(8))).toBe(0);
    blocks.allocate(table, 8);
    blocks.markComputed(table, { tokenIds: Int32Array.from(count(16)) }, 16);
    expect(blocks.numCachedBlocks).toBe(0);
    blocks.check([table]);
    blocks.free(table);
    expect(blocks.numFreeBlocks).toBe(8);
  });

  it.each([1, 4, 16])("gives no wrong block with a hash of %i values", (values) => {
    const hash = (parent: number, ids: Int32Array, start: number, end: number) =>
      ids.subarray(start, end).reduce((sum, id) => sum + id, parent) % values;
    const blocks = manager({ numBlocks: 60, blockSize: 2, hash });
    const random = createRandom(values);
    const contents = new Map<number, string>();
    for (let i = 0; i < 2000; i++) {
      const prompt = count(1 + random.integer(12)).map(() => random.integer(3));
      const { blocks: hit } = blocks.findPrefix({ tokenIds: Int32Array.from(prompt) }, undefined);
      for (const [j, block] of hit[0]!.entries()) {
        expect(contents.get(block)).toBe(prompt.slice(0, 2 * j + 2).join());
      }
      const table = compute(blocks, prompt);
      for (let j = 0; 2 * j + 2 <= prompt.length; j++) {
        contents.set(table.groups[0]!.blocks[j]!, prompt.slice(0, 2 * j + 2).join());
      }
      blocks.free(table);
      blocks.check([]);
    }
  });

  it("counts queried and found tokens", () => {
    const blocks = manager();
    blocks.recordLookup(14, 0);
    blocks.recordLookup(14, 12);
    expect(blocks.prefixStatistics).toEqual({ queriedTokens: 28, hitTokens: 12 });
  });
});

describe("events", () => {
  it("tell what can be found, and from when on it cannot", () => {
    const events: CacheEvent[] = [];
    const onEvent = (event: CacheEvent) => events.push(event);
    const blocks = manager({ numBlocks: 4, onEvent });
    blocks.free(compute(blocks, count(9), "salt"));
    const [first, second] = events;
    expect(first).toMatchObject({ type: "stored", parentHash: undefined, cacheSalt: "salt" });
    expect(second).toMatchObject({ type: "stored", parentHash: (first as { hash: number }).hash });
    expect(second).toMatchObject({ tokenIds: Int32Array.of(4, 5, 6, 7) });
    const table = new BlockTable();
    blocks.allocate(table, 8);
    expect(events.slice(2)).toEqual([
      { type: "removed", hash: (second as { hash: number }).hash, group: 0 },
    ]);
    blocks.resetPrefixCache();
    expect(events.at(-1)).toEqual({ type: "cleared" });
  });
});

describe("hashes", () => {
  it("are integers of 53 bits that differ by parent, tokens, order, length, salt and seed", () => {
    const hashes = new Set<number>();
    const add = (hash: number) => {
      expect(Number.isSafeInteger(hash) && hash >= 0).toBe(true);
      hashes.add(hash);
    };
    const ids = Int32Array.of(1, 2, 2, 1, 0, 0, 0);
    for (const parent of [0, 1, 2 ** 32, 2 ** 32 + 1, 2 ** 53 - 1]) {
      add(hashTokens(parent, ids, 0, 2));
      add(hashTokens(parent, ids, 2, 4));
      add(hashTokens(parent, ids, 4, 5));
      add(hashTokens(parent, ids, 4, 6));
      add(hashSalt(parent, undefined));
      add(hashSalt(parent, "ab"));
      add(hashSalt(parent, "ba"));
    }
    expect(hashes.size).toBe(35);
  });

  it("rarely collide", () => {
    const hashes = new Set<number>();
    const buckets = new Set<number>();
    for (let i = 0; i < 200_000; i++) {
      const hash = hashTokens(1, Int32Array.of(i % 500, Math.floor(i / 500)), 0, 2);
      hashes.add(hash);
      buckets.add(hash % 2 ** 21);
    }
    expect(hashes.size).toBe(200_000);
    // 200,000 balls in 2^21 boxes fill about 190,750 of them.
    expect(Math.abs(buckets.size - 190_750)).toBeLessThan(1500);
  });
});
