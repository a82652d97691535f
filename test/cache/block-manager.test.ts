import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { BlockManager, BlockTable } from "../../lib/cache/block-manager.js";

/** Of the first KV group. */
const blocksOf = (table: BlockTable): Int32Array => table.groups[0]!.blocks;

describe("BlockManager", () => {
  it("allocates a block when the previous one is full", () => {
    const blocks = new BlockManager({ numBlocks: 4, blockSize: 4 });
    const table = new BlockTable();
    expect(blocks.allocate(table, 3)).toBe(true);
    expect(table.numBlocks).toBe(1);
    expect(blocks.allocate(table, 1)).toBe(true);
    expect(table.numBlocks).toBe(1);
    expect(blocks.allocate(table, 1)).toBe(true);
    expect(table.numBlocks).toBe(2);
    expect(blocks.numFreeBlocks).toBe(1);
    blocks.check([table]);
  });

  it("changes nothing when blocks are short", () => {
    const blocks = new BlockManager({ numBlocks: 4, blockSize: 4 });
    const table = new BlockTable();
    blocks.allocate(table, 5);
    expect(blocks.allocate(table, 8)).toBe(false);
    expect(table.numTokens).toBe(5);
    expect(blocks.numFreeBlocks).toBe(1);
    expect(blocks.allocate(table, 7)).toBe(true);
    blocks.check([table]);
  });

  it("gives consecutive positions of a block consecutive slots", () => {
    const blocks = new BlockManager({ numBlocks: 4, blockSize: 4 });
    const table = new BlockTable();
    blocks.allocate(table, 6);
    const [first, second] = blocksOf(table);
    expect([0, 3, 4, 5].map((position) => blocks.slot(table, position))).toEqual([
      first! * 4,
      first! * 4 + 3,
      second! * 4,
      second! * 4 + 1,
    ]);
  });

  it("takes blocks back in reverse, so that the same ones come again", () => {
    const blocks = new BlockManager({ numBlocks: 8, blockSize: 2 });
    const table = new BlockTable();
    blocks.allocate(table, 9);
    const before = blocksOf(table).slice();
    blocks.free(table);
    blocks.free(table);
    expect(blocks.numFreeBlocks).toBe(7);
    blocks.check([table]);
    blocks.allocate(table, 9);
    expect(blocksOf(table)).toEqual(before);
  });

  it.each([-1, 1.5, NaN, "16"])("refuses a window of %s tokens", (slidingWindow) => {
    const kvGroups = [{ slidingWindow: 0 }, { slidingWindow: slidingWindow as number }];
    const options = { numBlocks: 4, blockSize: 4, kvGroups };
    expect(() => new BlockManager(options)).toThrow("`kvGroups[1].slidingWindow`");
  });

  it.each([0, 257, 1.5, NaN, "16"])("refuses blocks of %s tokens", (blockSize) => {
    expect(() => new BlockManager({ numBlocks: 4, blockSize: blockSize as number })).toThrow(
      "`blockSize`",
    );
  });

  it("notices a table that is not its own", () => {
    const blocks = new BlockManager({ numBlocks: 4, blockSize: 4 });
    const table = new BlockTable();
    blocks.allocate(table, 4);
    expect(() => blocks.check([])).toThrow("owners");
    expect(() => blocks.check([table, table])).toThrow("owners");
    table.numTokens = 9;
    expect(() => blocks.check([table])).toThrow("as long as");
  });
});

describe("fork and copy-on-write", () => {
  const forked = (numTokens: number) => {
    const blocks = new BlockManager({ numBlocks: 9, blockSize: 4 });
    const [parent, child] = [new BlockTable(), new BlockTable()];
    blocks.allocate(parent, numTokens);
    blocks.fork(parent, child);
    return { blocks, parent, child, tables: [parent, child] };
  };

  it("shares everything, the partial last block included", () => {
    const { blocks, parent, child, tables } = forked(6);
    expect(blocksOf(child)).toEqual(blocksOf(parent));
    expect(blocks.numFreeBlocks).toBe(6);
    expect(blocks.usage(child)).toEqual({ blocks: 2, sharedBlocks: 2, cachedTokens: 0 });
    blocks.check(tables);
  });

  it("copies a partial block for the first who writes; the last owner writes in place", () => {
    const { blocks, parent, child, tables } = forked(6);
    const last = blocksOf(parent)[1]!;
    expect(blocks.blocksNeeded(child, 1)).toBe(1);
    blocks.allocate(child, 1);
    expect([...blocks.takeCopies()]).toEqual([last, blocksOf(child)[1]]);
    expect(blocks.blocksNeeded(parent, 1)).toBe(0);
    blocks.allocate(parent, 1);
    expect(blocksOf(parent)[1]).toBe(last);
    blocks.check(tables);
    blocks.finishStep();
    expect([...blocks.takeCopies()]).toEqual([]);
    expect(blocks.usage(child)).toEqual({ blocks: 2, sharedBlocks: 1, cachedTokens: 0 });
    blocks.check(tables);
  });

  it("copies nothing where the last block is full", () => {
    const { blocks, parent, child, tables } = forked(8);
    blocks.allocate(child, 1);
    blocks.allocate(parent, 1);
    expect([...blocks.takeCopies()]).toEqual([]);
    expect(blocksOf(parent)[2]).not.toBe(blocksOf(child)[2]);
    blocks.check(tables);
  });

  it("keeps what a copy reads until the step has run, even when its owners are gone", () => {
    const { blocks, parent, child } = forked(6);
    blocks.allocate(child, 1);
    const [from] = blocks.takeCopies();
    blocks.free(parent);
    blocks.check([child]);
    expect(blocks.numFreeBlocks).toBe(5); // 8 less 2 of the child and 1 that is read
    const other = new BlockTable();
    blocks.allocate(other, 20);
    expect([...blocksOf(other).subarray(0, 5)]).not.toContain(from);
    blocks.finishStep();
    expect(blocks.numFreeBlocks).toBe(1);
    blocks.check([child, other]);
  });

  it("drops a copy that nobody will read", () => {
    const { blocks, parent, child } = forked(6);
    blocks.allocate(child, 1);
    blocks.free(child);
    expect([...blocks.takeCopies()]).toEqual([]);
    blocks.check([parent]);
    blocks.finishStep();
    blocks.check([parent]);
  });

  it("needs a block for the copy", () => {
    const blocks = new BlockManager({ numBlocks: 3, blockSize: 4 });
    const [parent, child] = [new BlockTable(), new BlockTable()];
    blocks.allocate(parent, 6);
    blocks.fork(parent, child);
    expect(blocks.allocate(child, 1)).toBe(false);
    expect([...blocks.takeCopies()]).toEqual([]);
    blocks.free(parent);
    expect(blocks.allocate(child, 1)).toBe(true);
    expect([...blocks.takeCopies()]).toEqual([]);
  });

  it("takes fewer tokens; a cached block that is then written is no longer found", () => {
    const blocks = new BlockManager({ numBlocks: 9, blockSize: 4 });
    const [parent, child] = [new BlockTable(), new BlockTable()];
    const tokens = { tokenIds: Int32Array.of(0, 1, 2, 3, 4, 5, 6, 7, 8) };
    blocks.allocate(parent, 8);
    blocks.markComputed(parent, tokens, 8);
    blocks.fork(parent, child, 6);
    blocks.free(parent);
    expect(blocks.findPrefix(tokens, undefined).numTokens).toBe(8);
    blocks.allocate(child, 1);
    expect([...blocks.takeCopies()]).toEqual([]);
    expect(blocks.findPrefix(tokens, undefined).numTokens).toBe(4);
    blocks.check([child]);
  });

  it("refuses what is not between two steps", () => {
    const { blocks, child } = forked(6);
    blocks.allocate(child, 1);
    expect(() => blocks.fork(child, new BlockTable())).toThrow("copy has been made");
    expect(() => blocks.fork(child, child)).toThrow("is empty");
    expect(() => blocks.fork(child, new BlockTable("salt"))).toThrow("salt");
    expect(() => blocks.fork(child, new BlockTable(), 9)).toThrow("no more tokens");
  });
});

describe("a sliding window", () => {
  const run = (numTokens: number, slidingWindow: number) => {
    const blocks = new BlockManager({ numBlocks: 20, blockSize: 4, kvGroups: [{ slidingWindow }] });
    const table = new BlockTable();
    const tokens = { tokenIds: new Int32Array(numTokens) };
    blocks.allocate(table, numTokens);
    blocks.markComputed(table, tokens, numTokens);
    blocks.check([table]);
    return { blocks, table, tokens };
  };

  it.each([
    [12, 5, 2], // the next token, at 12, sees 8 to 12
    [12, 6, 1],
    [12, 13, 0],
    [13, 1, 3],
    [3, 1, 0],
  ])("of %i tokens and window %i gives back %i blocks", (numTokens, window, released) => {
    const { blocks, table } = run(numTokens, window);
    expect(table.groups[0]!.numReleased).toBe(released);
    expect([...blocksOf(table).subarray(0, released)]).toEqual(Array(released).fill(0));
    expect(blocks.numFreeBlocks).toBe(19 - Math.ceil(numTokens / 4) + released);
    blocks.free(table);
    expect(blocks.numFreeBlocks).toBe(19);
  });

  it("holds a bounded number of blocks, however long the sequence is", () => {
    const blocks = new BlockManager({
      numBlocks: 5,
      blockSize: 4,
      kvGroups: [{ slidingWindow: 8 }],
    });
    const table = new BlockTable();
    const tokens = { tokenIds: new Int32Array(1000) };
    for (let i = 1; i <= 1000; i++) {
      expect(blocks.allocate(table, 1)).toBe(true);
      blocks.markComputed(table, tokens, i);
    }
    blocks.check([table]);
    expect(blocks.usage(table).blocks).toBeLessThanOrEqual(3);
  });

  it("lets a fork begin only where the blocks that it sees are left", () => {
    const { blocks, table } = run(16, 6);
    expect(blocks.canFork(table, 16)).toBe(true);
    expect(blocks.canFork(table, 12)).toBe(false);
    expect(() => blocks.fork(table, new BlockTable(), 12)).toThrow("given back");
  });
});

type Operation =
  | { readonly kind: "allocate"; readonly table: number; readonly count: number }
  | { readonly kind: "free"; readonly table: number };

const tableIndex = fc.integer({ min: 0, max: 5 });
const operation: fc.Arbitrary<Operation> = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant("allocate"),
      table: tableIndex,
      count: fc.integer({ min: 0, max: 20 }),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("free"), table: tableIndex }) },
);
const shape = fc.record({
  numBlocks: fc.integer({ min: 2, max: 25 }),
  blockSize: fc.integer({ min: 1, max: 6 }),
});

describe("BlockManager, any sequence of operations", () => {
  it("keeps every invariant", () => {
    fc.assert(fc.property(shape, fc.array(operation, { maxLength: 60 }), runOperations), {
      numRuns: 20_000,
    });
  });
});

/** Follows the operations with plain counts, and compares after each. */
function runOperations(
  options: { numBlocks: number; blockSize: number },
  operations: Operation[],
): void {
  const blocks = new BlockManager(options);
  const tables = Array.from({ length: 6 }, () => new BlockTable());
  const tokens = tables.map(() => 0);
  const blocksFor = (count: number) => Math.ceil(count / options.blockSize);
  for (const operation of operations) {
    const table = tables[operation.table]!;
    if (operation.kind === "free") {
      blocks.free(table);
      tokens[operation.table] = 0;
    } else {
      const wanted = tokens.map((count, i) =>
        blocksFor(i === operation.table ? count + operation.count : count),
      );
      const fits = sum(wanted) <= options.numBlocks - 1;
      if (blocks.allocate(table, operation.count) !== fits)
        throw new Error("allocates exactly what fits");
      if (fits) tokens[operation.table]! += operation.count;
    }
    blocks.check(tables);
    const used = sum(tokens.map(blocksFor));
    if (blocks.numFreeBlocks !== options.numBlocks - 1 - used)
      throw new Error("counts free blocks");
  }
  checkSlots(blocks, tables, options);
  for (const table of tables) blocks.free(table);
  if (blocks.numFreeBlocks !== blocks.numUsableBlocks) throw new Error("all blocks come back");
}

/** No two tokens share a slot, and none lies in the null block. */
function checkSlots(
  blocks: BlockManager,
  tables: BlockTable[],
  { numBlocks, blockSize }: { numBlocks: number; blockSize: number },
): void {
  const slots = tables.flatMap((table) =>
    Array.from({ length: table.numTokens }, (_, position) => blocks.slot(table, position)),
  );
  if (new Set(slots).size !== slots.length) throw new Error("slots are distinct");
  if (slots.some((slot) => slot < blockSize || slot >= numBlocks * blockSize))
    throw new Error("slots are in the cache");
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
