import { describe, expect, it } from "vitest";
import { BlockManager, BlockTable } from "../../lib/cache/block-manager.js";
import { firstSeenBlock, peakBlocks, tokensThatFit } from "../../lib/cache/kv-window.js";
import { createRandom } from "../support/random.js";

const windows = [0, 1, 2, 3, 5, 8, 13];

describe("the first block that a token sees", () => {
  it("is that of the oldest position in its window", () => {
    for (const slidingWindow of windows) {
      for (let position = 0; position < 40; position++) {
        const oldest = slidingWindow === 0 ? 0 : Math.max(0, position - slidingWindow + 1);
        expect(firstSeenBlock({ slidingWindow }, 3, position)).toBe(Math.floor(oldest / 3));
      }
    }
  });
});

describe("the blocks that a sequence needs at once", () => {
  /** Most blocks held at once over all ways to cut `numTokens` tokens into chunks; one token may be computed again. */
  function held(slidingWindow: number, blockSize: number, numTokens: number, maxChunk: number) {
    let most = 0;
    for (let start = 0; start < numTokens; start++) {
      const first = firstSeenBlock({ slidingWindow }, blockSize, Math.max(0, start - 1));
      const end = Math.min(start + maxChunk, numTokens);
      most = Math.max(most, Math.ceil(end / blockSize) - first);
    }
    return most;
  }

  it("are never more than is counted, and hardly fewer", () => {
    for (const slidingWindow of windows) {
      for (let blockSize = 1; blockSize <= 5; blockSize++) {
        for (let numTokens = 1; numTokens <= 30; numTokens++) {
          for (const maxChunk of [1, 2, 3, 7, 30]) {
            const most = held(slidingWindow, blockSize, numTokens, maxChunk);
            const peak = peakBlocks([{ slidingWindow }], blockSize, numTokens, maxChunk);
            expect(peak).toBeGreaterThanOrEqual(most);
            expect(peak - most).toBeLessThanOrEqual(1);
          }
        }
      }
    }
  });

  it("are those of all groups, which tokensThatFit inverts", () => {
    const groups = [{ slidingWindow: 0 }, { slidingWindow: 4 }, { slidingWindow: 9 }];
    expect(peakBlocks(groups, 4, 100, 1)).toBe(25 + 2 + 4);
    const options = { maxChunk: 3, limit: 500 };
    for (let numBlocks = 0; numBlocks < 200; numBlocks++) {
      const fits = tokensThatFit(groups, 4, numBlocks, options);
      expect(peakBlocks(groups, 4, fits, 3)).toBeLessThanOrEqual(numBlocks);
      if (fits < 500) expect(peakBlocks(groups, 4, fits + 1, 3)).toBeGreaterThan(numBlocks);
    }
    expect(tokensThatFit([{ slidingWindow: 4 }], 4, 3, { maxChunk: 2, limit: 1e6 })).toBe(1e6);
  });

  it("suffice, in a pool that has no more, for chunks of any sizes", () => {
    for (let seed = 0; seed < 500; seed++) {
      const random = createRandom(seed);
      const count = 1 + random.integer(3);
      const kvGroups = Array.from({ length: count }, () => ({ slidingWindow: random.integer(12) }));
      const blockSize = 1 + random.integer(5);
      const numTokens = 1 + random.integer(60);
      const maxChunk = 1 + random.integer(10);
      const numBlocks = 1 + peakBlocks(kvGroups, blockSize, numTokens, maxChunk);
      if (numBlocks < 2) continue;
      const blocks = new BlockManager({ numBlocks, blockSize, kvGroups });
      const table = new BlockTable();
      const tokens = { tokenIds: Int32Array.from({ length: numTokens }, () => random.integer(3)) };
      while (table.numTokens < numTokens) {
        const remaining = numTokens - table.numTokens;
        const reach = blocks.blocksToReach(table, numTokens, maxChunk);
        expect(reach).toBeLessThanOrEqual(blocks.numFreeBlocks);
        expect(blocks.allocate(table, Math.min(remaining, 1 + random.integer(maxChunk)))).toBe(
          true,
        );
        blocks.markComputed(table, tokens, table.numTokens);
        blocks.check([table]);
      }
      blocks.free(table);
      expect(blocks.numFreeBlocks).toBe(blocks.numUsableBlocks);
    }
  });
});
