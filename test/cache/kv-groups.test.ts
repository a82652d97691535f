import { describe, expect, it } from "vitest";
import { hashTokens } from "../../lib/cache/block-hash.js";
import {
  BlockManager,
  BlockTable,
  type BlockManagerOptions,
  type TokenSource,
} from "../../lib/cache/block-manager.js";

const blockSize = 4;
const full = { slidingWindow: 0 };
const window = (slidingWindow: number) => ({ slidingWindow });

function manager(options: Partial<BlockManagerOptions>): BlockManager {
  return new BlockManager({ numBlocks: 50, blockSize, ...options });
}

const count = (length: number, from = 0) => Array.from({ length }, (_, i) => from + i);

/** Computes a prompt in chunks of 4 tokens, behind what is found of it, beside `others`. */
function compute(
  blocks: BlockManager,
  prompt: readonly number[],
  others: readonly BlockTable[] = [],
): BlockTable {
  const tokens = { tokenIds: Int32Array.from(prompt) };
  const table = new BlockTable();
  blocks.adopt(table, blocks.findPrefix(tokens, undefined));
  while (table.numTokens < prompt.length) {
    const chunk = Math.min(4, prompt.length - table.numTokens);
    expect(blocks.allocate(table, chunk)).toBe(true);
    blocks.markComputed(table, tokens, table.numTokens);
    blocks.check([table, ...others]);
  }
  return table;
}

const found = (blocks: BlockManager, prompt: readonly number[]) =>
  blocks.findPrefix({ tokenIds: Int32Array.from(prompt) }, undefined);

/** Takes all free blocks for other tokens and gives them back, so that nothing free is cached. */
function reuseAll(blocks: BlockManager): void {
  const other = new BlockTable();
  expect(blocks.promise(other, blocks.numFreeBlocks)).toBe(true);
  while (blocks.blocksNeeded(other, 1) + other.numHeldBlocks <= other.numPromisedBlocks) {
    blocks.allocate(other, 1);
  }
  blocks.free(other);
}

describe("a table of several groups", () => {
  it("has blocks of its own in each, and one length", () => {
    const blocks = manager({ kvGroups: [full, window(6)] });
    const table = new BlockTable();
    expect(blocks.blocksNeeded(table, 9)).toBe(6);
    blocks.allocate(table, 9);
    expect(table).toMatchObject({ numTokens: 9, numBlocks: 3, numHeldBlocks: 6 });
    const named = table.groups.flatMap((group) => [...group.blocks.subarray(0, 3)]);
    expect(new Set(named).size).toBe(6);
    expect(blocks.slot(table, 5, 1)).toBe(4 * table.groups[1]!.blocks[1]! + 1);
    blocks.check([table]);
  });

  it("holds everything where all is seen, and a bounded part behind a window", () => {
    const blocks = manager({ kvGroups: [full, window(6), window(9)], numBlocks: 60 });
    const table = compute(blocks, count(100));
    const held = table.groups.map(({ numReleased }) => table.numBlocks - numReleased);
    expect(held).toEqual([25, 2, 2]);
    expect(blocks.usage(table)).toEqual({ blocks: 29, sharedBlocks: 0, cachedTokens: 0 });
    expect(blocks.peakBlocks(100, 4)).toBe(25 + 4 + 4);
  });

  it("changes nothing when one group's blocks are short", () => {
    const blocks = manager({ kvGroups: [full, window(6)], numBlocks: 6 });
    const table = new BlockTable();
    blocks.allocate(table, 8);
    expect(blocks.allocate(table, 1)).toBe(false);
    expect(table).toMatchObject({ numTokens: 8, numHeldBlocks: 4 });
    blocks.check([table]);
  });

  it("is forked in all groups, and each copies its partial block", () => {
    const blocks = manager({ kvGroups: [full, window(6)] });
    const [parent, child] = [compute(blocks, count(14)), new BlockTable()];
    expect(blocks.canFork(parent, 14)).toBe(true);
    expect(blocks.canFork(parent, 12)).toBe(false); // its oldest token was at 7, in block 1
    blocks.fork(parent, child);
    blocks.check([parent, child]);
    expect(blocks.blocksNeeded(child, 1)).toBe(2);
    blocks.allocate(child, 1);
    const copied = [0, 1].flatMap((g) => {
      return [parent.groups[g]!.blocks[3]!, child.groups[g]!.blocks[3]!];
    });
    expect([...blocks.takeCopies()]).toEqual(copied);
    blocks.check([parent, child]);
  });

  it("refuses groups that are none", () => {
    expect(() => manager({ kvGroups: [] })).toThrow("`kvGroups`");
  });
});

describe("a prefix behind a window", () => {
  it("is found where only the window is cached, after all before it was reused", () => {
    const blocks = manager({ kvGroups: [window(6)] });
    const table = compute(blocks, count(40));
    reuseAll(blocks);
    expect(blocks.numCachedBlocks).toBe(2);
    const hit = found(blocks, count(60));
    expect(hit).toMatchObject({ numTokens: 40, numFreeBlocks: 0 });
    expect(hit.blocks[0]!.slice(0, 8)).toEqual(new Int32Array(8));
    expect(hit.blocks[0]!.slice(8)).toEqual(table.groups[0]!.blocks.slice(8, 10));
    const again = compute(blocks, count(60), [table]);
    expect(again.numCachedTokens).toBe(40);
    blocks.check([table, again]);
  });

  it("is not found for other tokens before the window", () => {
    const blocks = manager({ kvGroups: [window(6)] });
    compute(blocks, count(40));
    reuseAll(blocks);
    expect(found(blocks, [99, ...count(60).slice(1)]).numTokens).toBe(0);
  });

  it("needs every block in the window", () => {
    const blocks = manager({ kvGroups: [window(10)] });
    const short = compute(blocks, count(12));
    const long = compute(blocks, count(28), [short]);
    // The long one gave back blocks 0 to 3, the short one holds 0 to 2: nobody has 3 any longer.
    reuseAll(blocks);
    expect(found(blocks, count(40)).numTokens).toBe(28);
    for (const length of [17, 21, 25]) expect(found(blocks, count(length)).numTokens).toBe(12);
    blocks.free(long);
    reuseAll(blocks);
    expect(found(blocks, count(40)).numTokens).toBe(12);
  });

  it("of one token needs no block, only the tokens before", () => {
    const blocks = manager({ kvGroups: [window(1), full] });
    compute(blocks, count(9));
    reuseAll(blocks);
    const hit = found(blocks, count(9));
    expect(hit.blocks[0]).toEqual(Int32Array.of(0, 0));
    expect(hit.numTokens).toBe(8);
  });

  it("is as long as all groups agree", () => {
    const blocks = manager({ kvGroups: [full, window(6)] });
    const table = compute(blocks, count(32));
    expect(found(blocks, count(33)).numTokens).toBe(32);
    expect(found(blocks, count(17)).numTokens).toBe(16); // its window is free, but cached
    reuseAll(blocks);
    expect(found(blocks, count(33)).numTokens).toBe(32);
    expect(found(blocks, count(17)).numTokens).toBe(0); // of its window, nothing is left
    blocks.forget(table);
    expect(found(blocks, count(33)).numTokens).toBe(0);
  });

  it("is forgotten from its end, in all groups together", () => {
    const blocks = manager({ kvGroups: [full, full], numBlocks: 17 });
    blocks.free(compute(blocks, count(32)));
    const other = new BlockTable();
    blocks.allocate(other, 4);
    expect(found(blocks, count(40)).numTokens).toBe(28);
    blocks.allocate(other, 4);
    expect(found(blocks, count(40)).numTokens).toBe(24);
  });

  it("keeps few nodes without blocks: those of the oldest prefix go", () => {
    const blocks = manager({ kvGroups: [window(6)], numBlocks: 7 });
    const short = compute(blocks, count(24, 1000));
    expect(found(blocks, count(30, 1000)).numTokens).toBe(24);
    const long = compute(blocks, count(900), [short]);
    expect(found(blocks, count(30, 1000)).numTokens).toBe(0); // the long one's 225 took the place of its way
    expect(found(blocks, count(1000)).numTokens).toBe(0); // and of its own beginning
    blocks.free(short);
    blocks.free(long);
    const again = compute(blocks, count(200));
    expect(found(blocks, count(300)).numTokens).toBe(200);
    blocks.check([again]);
  });

  it("can be pinned: the window stays, whatever is reused", () => {
    const blocks = manager({ kvGroups: [window(6), full], numBlocks: 40 });
    blocks.free(compute(blocks, count(32)));
    const pin = blocks.pin(Int32Array.from(count(32)));
    expect(pin).toMatchObject({ numTokens: 32, numHeldBlocks: 8 + 2 });
    reuseAll(blocks);
    expect(found(blocks, count(33)).numTokens).toBe(32);
    blocks.unpin(pin);
    reuseAll(blocks);
    expect(found(blocks, count(33)).numTokens).toBe(0);
    expect(blocks.numFreeBlocks).toBe(blocks.numUsableBlocks);
  });
});

describe("a prefix that is filled from elsewhere", () => {
  it.each([[[window(6)]], [[full, window(6)]], [[window(6), window(9)]], [[full]], [[window(1)]]])(
    "has the blocks that are seen behind it, and is found (%j)",
    (kvGroups) => {
      const blocks = manager({ kvGroups });
      const tokens = { tokenIds: Int32Array.from(count(33)) };
      const prefix = tokens.tokenIds.subarray(0, 32);
      const table = blocks.prepare(prefix, undefined)!;
      expect(table).toMatchObject({ numTokens: 32, numBlocks: 8 });
      const seen = kvGroups.map((group) => {
        return [8, 0, 0, 0, 0, 0, 2, 0, 0, 2][group.slidingWindow]!;
      });
      const held = seen.reduce((a, b) => a + b);
      expect(blocks.blocksOf(table)).toHaveLength(held);
      expect(blocks.numFreeBlocks).toBe(49 - held);
      blocks.markComputed(table, tokens, 32);
      blocks.check([table]);
      expect(found(blocks, count(40)).numTokens).toBe(held > 0 ? 32 : 0);
      blocks.free(table);
      const again = blocks.prepare(prefix, undefined);
      expect(again === undefined).toBe(held > 0); // it is cached, where there is anything to cache
    },
  );

  it("takes no blocks where they are short", () => {
    const blocks = manager({ kvGroups: [full, window(6)], numBlocks: 10 });
    expect(blocks.prepare(Int32Array.from(count(32)), undefined)).toBe(undefined);
    expect(blocks.prepare(Int32Array.from(count(28)), undefined)?.numHeldBlocks).toBe(9);
  });
});

describe("admission", () => {
  it("asks for the peak, less what is found in use", () => {
    const kvGroups = [full, window(6)];
    const blocks = manager({ kvGroups });
    const nothing = found(blocks, count(41));
    expect(blocks.blocksToAdmit(41, 4, nothing)).toBe(11 + 4);
    const table = compute(blocks, count(32));
    const inUse = found(blocks, count(41));
    expect(inUse.numFree).toEqual([0, 0]);
    // Blocks 8 to 10 of both groups; the window's shared ones do not come back.
    expect(blocks.blocksToAdmit(41, 4, inUse)).toBe(3 + 3);
    blocks.free(table);
    const free = found(blocks, count(41));
    expect(free.numFree).toEqual([8, 2]);
    expect(blocks.blocksToAdmit(41, 4, free)).toBe(11 + 4);
  });
});

describe("promised blocks", () => {
  it("are kept from others, and kept again when a window gives them back", () => {
    const blocks = manager({ kvGroups: [window(6)], numBlocks: 9 });
    const [table, other] = [new BlockTable(), new BlockTable()];
    const peak = blocks.peakBlocks(100, 4);
    expect(blocks.promise(table, 9)).toBe(false);
    expect(blocks.promise(table, peak)).toBe(true);
    expect(blocks.numFreeBlocks).toBe(8 - peak);
    expect(blocks.allocate(other, 4 * (8 - peak))).toBe(true);
    expect(blocks.allocate(other, 1)).toBe(false);
    for (let end = 4; end <= 100; end += 4) {
      expect(blocks.allocate(table, 4)).toBe(true);
      expect(blocks.numFreeBlocks).toBe(0);
      blocks.releaseBehind(table, end);
      blocks.check([table, other]);
    }
    blocks.free(table);
    expect(blocks.numFreeBlocks).toBe(peak);
    blocks.check([table, other]);
  });

  it("are not pinned", () => {
    const blocks = manager({ numBlocks: 9 });
    blocks.free(compute(blocks, count(16)));
    const table = new BlockTable();
    blocks.promise(table, 6);
    const pin = blocks.pin(Int32Array.from(count(16)));
    expect(pin.numTokens).toBe(0);
    expect(blocks.allocate(table, 24)).toBe(true);
    blocks.check([table]);
  });
});

describe("what a lookup found", () => {
  it("is neither hashed nor compared again, and what is new is found, too", () => {
    let calls = 0;
    const blocks = manager({ hash: (...parameters) => (calls++, hashTokens(...parameters)) });
    const prompt = count(42);
    const table = compute(blocks, prompt.slice(0, 20));
    const source: TokenSource = { tokenIds: Int32Array.from(prompt), prefixNodes: [] };
    const lookUp = () => {
      calls = 0;
      return blocks.findPrefix(source, undefined).numTokens;
    };
    expect([lookUp(), calls]).toEqual([20, 6]); // 5 blocks, and one that is not there
    expect([lookUp(), calls]).toEqual([20, 1]);
    const longer = compute(blocks, prompt, [table]);
    expect([lookUp(), calls]).toEqual([40, 5]);
    expect([lookUp(), calls]).toEqual([40, 0]);
    for (const old of [table, longer]) blocks.free(old);
    blocks.allocate(table, 48 * 4); // reuses all but the first of the cached blocks
    expect([lookUp(), calls]).toEqual([4, 1]);
    blocks.free(table);
    compute(blocks, prompt);
    expect([lookUp(), calls]).toEqual([40, 9]);
    blocks.resetPrefixCache();
    expect(lookUp()).toBe(0);
  });

  it("is not taken for another when it comes again", () => {
    const blocks = manager({ kvGroups: [full, window(6)] });
    const prompt = count(42);
    const source: TokenSource = { tokenIds: Int32Array.from(prompt), prefixNodes: [] };
    for (let i = 0; i < 3; i++) {
      const table = compute(blocks, prompt);
      expect(blocks.findPrefix(source, undefined)).toEqual(found(blocks, prompt));
      blocks.free(table);
      reuseAll(blocks);
      expect(blocks.findPrefix(source, undefined)).toEqual(found(blocks, prompt));
    }
  });
});
