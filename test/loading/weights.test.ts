import { mkdtemp, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { PlanWeight } from "../../lib/graph/plan.js";
import type { Checkpoint, TensorEntry } from "../../lib/loading/safetensors.js";
import { readWeight, resolveWeight } from "../../lib/loading/weights.js";
import { halfToNumber } from "../../lib/reference/half.js";

let directory = "";
let file = "";
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "pagoda-weights-"));
  file = join(directory, "data");
  const bytes = Buffer.alloc(64);
  for (let i = 0; i < 6; i++) bytes.writeFloatLE(i + 0.1, 4 * i); // F32 at 0
  for (const [i, bits] of [0x3f80, 0xc000, 0x4049].entries()) bytes.writeUInt16LE(bits, 24 + 2 * i); // BF16 at 24
  for (const [i, bits] of [0x3c00, 0xc000, 0x3555].entries()) bytes.writeUInt16LE(bits, 32 + 2 * i); // F16 at 32
  await writeFile(file, bytes);
});
afterAll(() => rm(directory, { recursive: true }));

function checkpoint(
  entries: Record<string, Pick<TensorEntry, "dtype" | "shape" | "offset">>,
): Checkpoint {
  const tensors = Object.entries(entries).map(
    ([name, entry]) => [name, { name, file, bytes: 0, ...entry }] as const,
  );
  return { files: [], tensors: new Map(tensors) };
}

const all = (): Checkpoint =>
  checkpoint({
    m: { dtype: "F32", shape: [3, 2], offset: 0 },
    v: { dtype: "BF16", shape: [3], offset: 24 },
    w: { dtype: "F16", shape: [3], offset: 32 },
    half: { dtype: "F16", shape: [1, 3], offset: 32 },
    integers: { dtype: "I32", shape: [3, 2], offset: 0 },
  });

function matrixOf(
  ...parts: { tensor: string; shape: number[]; rowStart?: number; rows?: number }[]
): PlanWeight {
  const source = {
    parts: parts.map((part) => ({ rowStart: 0, rows: part.shape[0] ?? 0, ...part })),
  };
  const rows = source.parts.reduce((sum, part) => sum + part.rows, 0);
  return {
    name: "weight",
    kind: "matrix",
    rows,
    cols: parts[0]?.shape[1] ?? 0,
    dtype: "f32",
    source,
  };
}

function vectorOf(...parts: { tensor: string; length: number }[]): PlanWeight {
  const cols = parts.reduce((sum, part) => sum + part.length, 0);
  const source = {
    parts: parts.map(({ tensor, length }) => ({ tensor, shape: [length], rowStart: 0, rows: 1 })),
  };
  return { name: "weight", kind: "vector", rows: 1, cols, dtype: "f32", source };
}

describe("resolveWeight", () => {
  it("finds the bytes of stacked row ranges", () => {
    const part = { tensor: "m", shape: [3, 2] };
    expect(
      resolveWeight(all(), matrixOf({ ...part, rowStart: 1, rows: 2 }, { ...part, rows: 1 })),
    ).toEqual([
      { file, offset: 8, dtype: "F32", rowStart: 0, rows: 2 },
      { file, offset: 0, dtype: "F32", rowStart: 2, rows: 1 },
    ]);
  });

  it("counts elements in vectors", () => {
    expect(
      resolveWeight(all(), vectorOf({ tensor: "v", length: 3 }, { tensor: "w", length: 3 })),
    ).toEqual([
      { file, offset: 24, dtype: "BF16", rowStart: 0, rows: 3 },
      { file, offset: 32, dtype: "F16", rowStart: 3, rows: 3 },
    ]);
  });

  it("gives no parts for constants", () => {
    const data = Float32Array.of(1, 2);
    expect(resolveWeight(all(), { ...vectorOf(), source: { data } })).toEqual([]);
  });

  it.each([
    ["a missing tensor", "nope", [3, 2], "a tensor of shape [3, 2]", "nothing"],
    ["another shape", "m", [2, 3], "shape [2, 3]", "[3, 2]"],
    ["another rank", "m", [6], "shape [6]", "[3, 2]"],
    ["another dtype", "integers", [3, 2], "dtype F32, F16, BF16 or quantised", "I32"],
  ])("refuses %s", (_, tensor, shape, expected, received) => {
    expect(() => resolveWeight(all(), matrixOf({ tensor, shape }))).toThrow(
      expect.objectContaining({
        code: "ERR_TENSOR_MISMATCH",
        details: { tensor, expected, received },
      }),
    );
  });
});

describe("readWeight", () => {
  it("reads stacked rows", async () => {
    const part = { tensor: "m", shape: [3, 2] };
    const values = await readWeight(
      all(),
      matrixOf({ ...part, rowStart: 1, rows: 2 }, { ...part, rows: 1 }),
    );
    expect([...values]).toEqual([2.1, 3.1, 4.1, 5.1, 0.1, 1.1].map(Math.fround));
  });

  it("widens bf16 and f16, and joins vectors", async () => {
    const values = await readWeight(
      all(),
      vectorOf({ tensor: "v", length: 3 }, { tensor: "w", length: 3 }),
    );
    expect([...values]).toEqual([1, -2, 3.140625, 1, -2, 0.333251953125]);
  });

  it("rounds to bf16 where the plan says so", async () => {
    const values = await readWeight(all(), {
      ...matrixOf({ tensor: "half", shape: [1, 3] }),
      dtype: "bf16",
    });
    expect([...values]).toEqual([1, -2, 0.333984375]);
  });

  it("reports a file that became shorter", async () => {
    const short = join(directory, "short");
    await writeFile(short, "");
    await truncate(short, 20);
    const tensors = new Map([
      ["m", { name: "m", file: short, dtype: "F32", shape: [3, 2], offset: 0, bytes: 24 }],
    ]);
    const weight = matrixOf({ tensor: "m", shape: [3, 2] });
    await expect(readWeight({ files: [], tensors }, weight)).rejects.toMatchObject({
      code: "ERR_MODEL_CORRUPT",
      details: { file: short },
    });
  });
});

describe("halfToNumber", () => {
  it.each([
    [0x0000, 0],
    [0x8000, -0],
    [0x0001, 2 ** -24],
    [0x03ff, 1023 * 2 ** -24],
    [0x0400, 2 ** -14],
    [0x7bff, 65504],
    [0x7c00, Infinity],
    [0xfc00, -Infinity],
    [0x7e00, NaN],
  ])("%i is %f", (half, expected) => {
    expect(halfToNumber(half)).toBe(expected);
  });
});
