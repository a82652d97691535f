import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { BlockManager, BlockTable } from "../../lib/cache/block-manager.js";

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
    const [first, second] = table.blocks;
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
    const before = table.blocks.slice();
    blocks.free(table);
    blocks.free(table);
    expect(blocks.numFreeBlocks).toBe(7);
    blocks.check([table]);
    blocks.allocate(table, 9);
    expect(table.blocks).toEqual(before);
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
  const blocksOf = (count: number) => Math.ceil(count / options.blockSize);
  for (const operation of operations) {
    const table = tables[operation.table]!;
    if (operation.kind === "free") {
      blocks.free(table);
      tokens[operation.table] = 0;
    } else {
      const wanted = tokens.map((count, i) =>
        blocksOf(i === operation.table ? count + operation.count : count),
      );
      const fits = sum(wanted) <= options.numBlocks - 1;
      if (blocks.allocate(table, operation.count) !== fits)
        throw new Error("allocates exactly what fits");
      if (fits) tokens[operation.table]! += operation.count;
    }
    blocks.check(tables);
    const used = sum(tokens.map(blocksOf));
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
