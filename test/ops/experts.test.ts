import { expect, it, describe } from "vitest";
import type { QuantizedDtype } from "../../lib/graph/dtypes.js";
import { activations, type Activation } from "../../lib/graph/ops.js";
import { unlessUnsupported } from "../support/devices.js";
import { createRandom } from "../support/random.js";
import { opBackends, reference } from "./backends.js";
import { conformance } from "./conformance.js";
import { elementsOf, planCase, type CaseOp, type CaseWeight, type OpCase } from "./op-case.js";
import { quantizedDtypes, randomWeight } from "./random-blocks.js";
import { plainStep } from "./steps.js";

interface ExpertsShape {
  readonly rows: number;
  readonly inputs: number;
  /** Outputs of gate and up. */
  readonly width: number;
  readonly outputs?: number;
  readonly experts: number;
  readonly topK: number;
  readonly biased?: boolean;
  readonly activation?: Activation;
  readonly of?: "outputs";
  /** Matrices are blocks of this type in files. */
  readonly blocks?: QuantizedDtype;
  /** Expert of a slot of a row. @default random, different ones */
  readonly expert?: (row: number, slot: number) => number;
}

type Random = ReturnType<typeof createRandom>;

/** `[rows, 2 * topK]`: weights that add up to about 1, then experts. */
function randomRoute(random: Random, shape: ExpertsShape): Float32Array {
  const { rows, experts, topK, expert } = shape;
  const route = new Float32Array(rows * 2 * topK);
  for (let row = 0; row < rows; row++) {
    const first = random.integer(experts);
    for (let slot = 0; slot < topK; slot++) {
      const at = row * 2 * topK + slot;
      route[at] = (0.5 + random.integer(64) / 64) / topK;
      route[at + topK] = expert?.(row, slot) ?? (first + slot * 3) % experts;
    }
  }
  return route;
}

function expertsCase(name: string, shape: ExpertsShape): OpCase {
  const { rows, inputs, width, outputs = inputs, experts, biased = false } = shape;
  const { activation = "silu", of = "tokens", blocks } = shape;
  const random = createRandom(rows * 10_000 + inputs * 10 + experts);
  const matrixOf = (count: number, cols: number): CaseWeight => {
    if (blocks !== undefined) return randomWeight(random, "matrix", blocks, count, cols);
    const data = random.normals(count * cols, cols ** -0.5);
    return { kind: "matrix", rows: count, cols, data };
  };
  const vectorOf = (cols: number): CaseWeight => {
    return { kind: "vector", rows: 1, cols, data: random.normals(cols) };
  };
  const matrices = {
    gate: matrixOf(experts * width, inputs),
    up: matrixOf(experts * width, inputs),
    down: matrixOf(experts * outputs, width),
  };
  const biases = {
    gateBias: vectorOf(experts * width),
    upBias: vectorOf(experts * width),
    downBias: vectorOf(experts * outputs),
  };
  const weights = biased ? { ...matrices, ...biases } : matrices;
  return {
    name: `${name}: ${rows} rows, ${shape.topK} of ${experts} [${inputs} -> ${width} -> ${outputs}]`,
    tensors: {
      x: { rows: of, width: inputs },
      route: { rows: of, width: 2 * shape.topK },
      out: { rows: of, width: outputs, isOutput: true },
    },
    weights,
    ops: [
      {
        op: "experts",
        inputs: ["x", "route"],
        output: "out",
        weights: Object.keys(weights),
        attributes: { numExperts: experts, activation: activations[activation] },
      },
    ],
    runs: [
      {
        step: plainStep(rows),
        data: { x: random.normals(rows * inputs), route: randomRoute(random, shape) },
      },
    ],
  };
}

const small = { inputs: 64, width: 48, experts: 5, topK: 2 };

conformance(
  "experts",
  [
    expertsCase("one row", { ...small, rows: 1 }),
    expertsCase("few rows", { ...small, rows: 7, biased: true }),
    expertsCase("many rows", { ...small, rows: 300, inputs: 32, width: 32 }),
    expertsCase("odd sizes", { rows: 9, inputs: 33, width: 17, outputs: 70, experts: 7, topK: 3 }),
    expertsCase("of gpt-oss", { ...small, rows: 6, biased: true, activation: "clampedSwiglu" }),
    expertsCase("gelu", { ...small, rows: 4, activation: "geluTanh", of: "outputs" }),
    expertsCase("one expert has all", { ...small, rows: 20, topK: 1, expert: () => 3 }),
    expertsCase("one expert twice", { ...small, rows: 3, expert: () => 4 }),
    expertsCase("the first has none", {
      ...small,
      rows: 8,
      expert: (row, slot) => 1 + ((row + slot) % 4),
    }),
    expertsCase("narrow", { rows: 4, inputs: 8, width: 3, outputs: 5, experts: 30, topK: 4 }),
  ],
  { dtypes: ["f32", "bf16", "f16"] },
);

const wide = { inputs: 256, width: 256, outputs: 64, experts: 3, topK: 2 };

conformance(
  "experts",
  [expertsCase("quantised", { ...wide, rows: 1 }), expertsCase("quantised", { ...wide, rows: 13 })],
  { dtypes: ["q8_0", "q4_1", "q4_k"] },
);

const backends = [{ ...reference, name: "reference" }, ...(await opBackends({ allGpus: true }))];

describe.each(backends)("the rows of $name", (backend) => {
  it.each(["f32", "bf16", "f16", "q8_0", "q4_k"] as const)(
    "do not depend on each other, %s",
    async (dtype) => {
      if (backend.name === "reference" && dtype !== "f32") return;
      const { rows, inputs, topK, outputs } = { ...wide, rows: 37 };
      const opCase = expertsCase("all", { ...wide, rows });
      const { x, route } = opCase.runs[0]!.data as { x: Float32Array; route: Float32Array };
      const all = await outputOf(opCase, x, route);
      const order = [...Array(rows).keys()].map((row) => (row * 11 + 5) % rows);
      const chosen = [order, [20], order.slice(0, 3)];
      for (const picked of chosen) {
        const pick = (values: Float32Array, width: number): Float32Array =>
          Float32Array.from({ length: picked.length * width }, (_, i) => {
            return values[picked[Math.floor(i / width)]! * width + (i % width)]!;
          });
        const some = await outputOf(opCase, pick(x, inputs), pick(route, 2 * topK));
        expect(some).toEqual(pick(all, outputs));
      }

      async function outputOf(
        base: OpCase,
        x: Float32Array,
        route: Float32Array,
      ): Promise<Float32Array> {
        const step = plainStep(x.length / inputs);
        const changed = { ...base, runs: [{ step, data: { x, route } }] };
        const casePlan = planCase(changed, dtype, "packed");
        const { arena } = await backend.run(changed, casePlan);
        return Float32Array.from(elementsOf(casePlan.operands["out"]!, step), (i) => arena[i]!);
      }
    },
  );
});

/** All rows through one expert of several, as linears in the place of `experts`. */
function asLinears(opCase: OpCase, width: number, expert: number, experts: number): OpCase {
  const linear = (input: string, output: string, weight: string): CaseOp => {
    return { op: "linear", inputs: [input], output, weights: [weight] };
  };
  const hidden = { rows: "tokens", width, isOutput: true } as const;
  return {
    ...opCase,
    weights: Object.fromEntries(
      Object.entries(opCase.weights!).map(([name, all]) => [name, partOf(all, expert, experts)]),
    ),
    tensors: { ...opCase.tensors, gates: hidden, ups: hidden, hidden },
    ops: [
      linear("x", "gates", "gate"),
      linear("x", "ups", "up"),
      {
        op: "gatedActivation",
        inputs: ["gates", "ups"],
        output: "hidden",
        attributes: { activation: activations.silu },
      },
      linear("hidden", "out", "down"),
    ],
  };
}

/** One of `count` equal parts, by rows. */
function partOf(weight: CaseWeight, index: number, count: number): CaseWeight {
  const part = <A extends Float32Array | Uint8Array>(all: A): A => {
    const length = all.length / count;
    return all.slice(index * length, (index + 1) * length) as A;
  };
  const { dtype, bytes } = weight.file!;
  const rows = weight.rows / count;
  return { ...weight, rows, data: part(weight.data), file: { dtype, bytes: part(bytes) } };
}

describe.each(await opBackends({ allGpus: true }))("experts on $name", (backend) => {
  it.for(quantizedDtypes)("have the bits of linears, %s", async (blocks, { skip }) => {
    const step = plainStep(9);
    const expert = (row: number): number => row % wide.experts;
    const shape = { ...wide, rows: 9, outputs: 67, topK: 1, expert, blocks };
    const opCase = expertsCase("several", shape);
    const route = Float32Array.from({ length: 18 }, (_, i) =>
      i % 2 === 0 ? 1 : expert((i - 1) / 2),
    );
    const { x } = opCase.runs[0]!.data as { x: Float32Array };
    const several = { ...opCase, runs: [{ step, data: { x, route } }] };
    const outputOf = async (chosen: OpCase): Promise<Float32Array> => {
      const casePlan = planCase(chosen, "f32", "packed");
      const { arena } = await backend.run(chosen, casePlan);
      return Float32Array.from(elementsOf(casePlan.operands["out"]!, step), (i) => arena[i]!);
    };
    await unlessUnsupported(backend, skip, async () => {
      const output = await outputOf(several);
      expect(output.every(Number.isFinite)).toBe(true);
      for (let e = 0; e < wide.experts; e++) {
        const expected = await outputOf(asLinears(several, shape.width, e, wide.experts));
        for (let row = e; row < shape.rows; row += wide.experts) {
          const [start, end] = [row * shape.outputs, (row + 1) * shape.outputs];
          expect(output.slice(start, end)).toEqual(expected.slice(start, end));
        }
      }
    });
  });
});
