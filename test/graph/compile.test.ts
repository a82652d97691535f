import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { compile } from "../../lib/graph/compile.js";
import { createGraph, type Graph, type GraphStep, type Tensor } from "../../lib/graph/graph.js";
import type { Operand, Plan, PlanStep } from "../../lib/graph/plan.js";
import type { Weight } from "../../lib/graph/weight-table.js";

const options = { maxTokens: 3, maxOutputs: 2, dtype: "f32" } as const;

function weight(
  g: Graph,
  kind: "matrix" | "table",
  name: string,
  rows: number,
  cols: number,
): Weight {
  return g[kind](name, [{ tensor: name, shape: [rows, cols], rowStart: 0, rows }]);
}

/** A graph of one embed, what `build` adds, and logits. */
function graphOf(width: number, build: (g: Graph, x: Tensor) => Tensor): Graph {
  const g = createGraph();
  const x = build(g, g.embed(weight(g, "table", "embed", 10, width)));
  g.sample(g.linear(g.takeRows(x), weight(g, "matrix", "head", 10, x.width)));
  return g;
}

const step = (plan: Plan, name: string): PlanStep =>
  plan.steps.find((s) => s.name === name) as PlanStep;

describe("compile", () => {
  it("gives every op its operands, and logits to the plan", () => {
    const plan = compile(
      graphOf(8, (g, x) => g.add(x, x)),
      { ...options, dtype: "bf16" },
    );
    expect(plan.steps.map((s) => s.op)).toEqual(["embed", "add", "takeRows", "linear", "sample"]);
    expect(plan).toMatchObject({ maxTokens: 3, maxOutputs: 2, vocabSize: 10, kvLayers: [] });
    expect(plan.weights.map((w) => [w.kind, w.dtype])).toEqual([
      ["table", "bf16"],
      ["matrix", "bf16"],
    ]);
    expect(plan.logits).toEqual(step(plan, "sample").inputs[0]);
    expect(plan.logits).toMatchObject({ rows: "outputs", width: 10, rowStride: 10 });
  });

  it("keeps vectors f32", () => {
    const g = graphOf(8, (g, x) =>
      g.rmsNorm(x, g.constant("norm", new Float32Array(8)), { eps: 1e-6 }),
    );
    const plan = compile(g, { ...options, dtype: "bf16" });
    expect(plan.weights.find((w) => w.name === "norm")).toMatchObject({
      kind: "vector",
      dtype: "f32",
    });
  });

  it("needs `sample` at the end", () => {
    expect(() => compile(createGraph(), options)).toThrow(
      expect.objectContaining({ code: "ERR_INTERNAL" }),
    );
  });

  it.each([
    ["maxTokens", 0],
    ["maxTokens", 1.5],
    ["maxTokens", NaN],
    ["maxTokens", 2 ** 21],
    ["maxOutputs", -1],
    ["maxOutputs", "4"],
    ["dtype", "f16"],
  ])("refuses %s = %s", (parameter, value) => {
    const g = graphOf(8, (_, x) => x);
    const bad = { ...options, [parameter]: value } as never;
    expect(() => compile(g, bad)).toThrow(
      expect.objectContaining({
        code: "ERR_ARGUMENT",
        details: expect.objectContaining({ parameter }),
      }),
    );
  });
});

describe("the arena", () => {
  it("is written in place where an input dies", () => {
    const plan = compile(
      graphOf(8, (g, x) => {
        const norm = g.rmsNorm(x, g.constant("norm", new Float32Array(8)), { eps: 1e-6 });
        return g.add(x, norm, "residual");
      }),
      options,
    );
    const [x, norm, residual] = ["embed", "norm", "residual"].map(
      (name) => step(plan, name).output,
    );
    expect(norm?.offset).not.toBe(x?.offset); // x is still needed
    expect(residual).toEqual(x);
  });

  it("is not written in place by ops that do not allow it", () => {
    const plan = compile(
      graphOf(8, (g, x) => g.gatedActivation(x, x, "silu")),
      options,
    );
    expect(step(plan, "activation").output?.offset).not.toBe(step(plan, "embed").output?.offset);
  });

  it("is written in place inside a wider tensor, with its stride", () => {
    const plan = compile(
      graphOf(8, (g, x) => {
        const [a, b] = g.split(x, [4, 4]);
        return g.add(g.rmsNorm(a, g.constant("norm", new Float32Array(4)), { eps: 1 }), b);
      }),
      options,
    );
    const norm = step(plan, "norm");
    expect(norm.output).toEqual(norm.inputs[0]);
    expect(norm.output).toMatchObject({ width: 4, rowStride: 8 });
  });

  it("uses memory again, at offsets of 64 bytes", () => {
    const plan = compile(
      graphOf(8, (g, x) => {
        for (let i = 0; i < 10; i++) x = g.linear(x, weight(g, "matrix", `m${i}`, 8, 8));
        return x;
      }),
      options,
    );
    const size = 128; // 3 x 8 floats, aligned
    expect(plan.arenaBytes).toBe(2 * size);
    for (const { output } of plan.steps) expect((output?.offset ?? 0) % 64).toBe(0);
  });

  it("keeps the base of a view alive", () => {
    const g = graphOf(8, (g, x) => {
      const view = g.columns(x, 2, 4);
      const other = g.linear(x, weight(g, "matrix", "a", 4, 8));
      const third = g.linear(other, weight(g, "matrix", "b", 4, 4));
      return g.gatedActivation(third, view, "gelu");
    });
    expectValuesSurvive(g, compile(g, options));
  });

  it("of random graphs never overwrites what is still needed", () => {
    fc.assert(
      fc.property(
        fc.array(fc.array(fc.nat(1000), { minLength: 4, maxLength: 4 }), { maxLength: 24 }),
        (program) => {
          const g = randomGraph(program as number[][]);
          const plan = compile(g, options);
          expectValuesSurvive(g, plan);
        },
      ),
      { numRuns: 150 },
    );
  });
});

/** A graph built from numbers: each instruction picks an op and its operands among what is there. */
function randomGraph(program: readonly (readonly number[])[]): Graph {
  const g = createGraph();
  const table = g.ropeTable(g.constant("rope", new Float32Array(1)));
  const tensors: Tensor[] = [g.embed(weight(g, "table", "embed", 10, 12)), table];
  for (const [index, [op = 0, a = 0, b = 0, c = 0]] of program.entries()) {
    const x = tensors[a % tensors.length] as Tensor;
    const same = tensors.filter((t) => t.width === x.width && t.rows === x.rows);
    const y = same[b % same.length] as Tensor;
    tensors.push(...instruction(g, `${index}`, op % 8, x, y, c, table));
  }
  const last = tensors.findLast((t) => t.rows === "tokens") as Tensor;
  g.sample(g.linear(g.takeRows(last, "last"), weight(g, "matrix", "head", 10, last.width)));
  return g;
}

function instruction(
  g: Graph,
  name: string,
  op: number,
  x: Tensor,
  y: Tensor,
  c: number,
  table: Tensor,
): Tensor[] {
  switch (op) {
    case 0:
    case 1:
      return [g.add(x, y, name)];
    case 2:
      return [g.rmsNorm(x, g.constant(name, new Float32Array(x.width)), { eps: 1 })];
    case 3:
      return x.rows === "tokens" && x.width % 2 === 0
        ? [g.rope(x, table, { headDim: 2, rotaryDim: 2 }, name)]
        : [];
    case 4:
      return [g.linear(x, weight(g, "matrix", name, 1 + (c % 20), x.width))];
    case 5:
      return [g.gatedActivation(x, y, "silu", name)];
    case 6:
      return x.rows === "tokens" ? [g.takeRows(x, name)] : [];
    default: {
      const width = 1 + (c % x.width);
      return [g.columns(x, x.width - width, width), g.columns(x, 0, width)];
    }
  }
}

/**
 * Runs the plan on a memory that holds, for each element, which value, row and column was written there last. Every read must
 * find what the graph says; a step may write over its own inputs only where the op allows it, and only exactly.
 */
function expectValuesSurvive(g: Graph, plan: Plan): void {
  const memory = new Map<number, string>();
  for (const [index, { inputs, output, op }] of plan.steps.entries()) {
    const source = g.steps[index] as GraphStep;
    for (const [i, input] of inputs.entries()) {
      const tensor = source.inputs[i] as Tensor;
      for (const { address, row, column } of elements(input)) {
        expect(memory.get(address), `${source.name} reads`).toBe(
          `${tensor.value}/${row}/${column + tensor.start}`,
        );
      }
    }
    if (output === undefined) continue;
    const allowed = { rmsNorm: 1, rope: 1, add: 2 }[op as string] ?? 0;
    const written = new Set(elements(output).map(({ address }) => address));
    for (const [i, input] of inputs.entries()) {
      const isExact =
        input.offset === output.offset &&
        input.width === output.width &&
        input.rowStride === output.rowStride;
      if (i < allowed && isExact) continue;
      const shared = elements(input).filter(({ address }) => written.has(address));
      expect(shared, `${source.name} writes over input ${i}`).toEqual([]);
    }
    for (const { address, row, column } of elements(output)) {
      expect(address).toBeLessThan(plan.arenaBytes);
      memory.set(address, `${source.output?.value}/${row}/${column}`);
    }
  }
}

function elements(operand: Operand): { address: number; row: number; column: number }[] {
  const rows = operand.rows === "tokens" ? options.maxTokens : options.maxOutputs;
  return Array.from({ length: rows * operand.width }, (_, i) => {
    const [row, column] = [Math.floor(i / operand.width), i % operand.width];
    return { address: operand.offset + 4 * (row * operand.rowStride + column), row, column };
  });
}
