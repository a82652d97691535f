import type { QuantizedDtype } from "../../lib/graph/dtypes.js";
import { createRandom } from "../support/random.js";
import { conformance } from "./conformance.js";
import type { CaseWeight, OpCase } from "./op-case.js";
import { quantizedDtypes, randomWeight } from "./random-blocks.js";
import { plainStep } from "./steps.js";

type Random = ReturnType<typeof createRandom>;

/** Eight-bit numbers times a power of two for as many columns as a scale of the activations has; one of each is 127. */
function codes(random: Random, length: number, dtype: QuantizedDtype): Float32Array {
  const columns = dtype === "q8_0" ? 32 : 256;
  const values = new Float32Array(length);
  for (let i = 0; i < length; i += columns) {
    const unit = 2 ** (random.integer(3) - 9);
    for (let j = i; j < i + columns; j++) values[j] = (random.integer(255) - 127) * unit;
    values[i + random.integer(columns)] = 127 * unit;
  }
  return values;
}

interface LinearShape {
  readonly rows: number;
  readonly inputs: number;
  readonly outputs: number;
}

function linearCase(
  name: string,
  { rows, inputs, outputs }: LinearShape,
  weight: CaseWeight,
  x: Float32Array,
  hasCodesAsInputs: boolean,
): OpCase {
  const random = createRandom(outputs);
  const bias = { kind: "vector" as const, rows: 1, cols: outputs, data: random.normals(outputs) };
  return {
    name: `${name} [${rows}, ${inputs}] x [${outputs}, ${inputs}]`,
    tensors: {
      x: { rows: "tokens", width: inputs },
      out: { rows: "tokens", width: outputs, isOutput: true },
    },
    weights: { weight, bias },
    ops: [{ op: "linear", inputs: ["x"], output: "out", weights: ["weight", "bias"] }],
    runs: [{ step: plainStep(rows), data: { x } }],
    hasCodesAsInputs,
  };
}

/** Blocks of a file times inputs that are not rounded: only sums of floats are. */
function fileLinear(dtype: QuantizedDtype, shape: LinearShape): OpCase {
  const random = createRandom(shape.rows * 1000 + shape.outputs);
  const weight = randomWeight(random, "matrix", dtype, shape.outputs, shape.inputs);
  return linearCase(
    `${dtype} blocks`,
    shape,
    weight,
    codes(random, shape.rows * shape.inputs, dtype),
    true,
  );
}

/** Numbers that are quantised as they are loaded. */
function roundedLinear({ rows, inputs, outputs }: LinearShape): OpCase {
  const random = createRandom(rows * 1000 + outputs);
  const data = random.normals(outputs * inputs, inputs ** -0.5);
  const weight = { kind: "matrix" as const, rows: outputs, cols: inputs, data };
  const x = random.normals(rows * inputs);
  return linearCase("rounded", { rows, inputs, outputs }, weight, x, false);
}

function embedCase(name: string, table: CaseWeight, tokens: number): OpCase {
  const random = createRandom(tokens);
  const tokenIds = Int32Array.from({ length: tokens }, () => random.integer(table.rows));
  tokenIds[0] = table.rows - 1;
  return {
    name: `${name} ${table.kind} [${table.rows}, ${table.cols}]`,
    tensors: { out: { rows: "tokens", width: table.cols, isOutput: true } },
    weights: { table },
    ops: [{ op: "embed", inputs: [], output: "out", weights: ["table"], attributes: { scale: 2 } }],
    vocabSize: table.rows,
    runs: [{ step: plainStep(tokens, { tokenIds }), data: {} }],
  };
}

const shapes: readonly LinearShape[] = [
  { rows: 1, inputs: 512, outputs: 67 },
  { rows: 3, inputs: 256, outputs: 1 },
  { rows: 5, inputs: 768, outputs: 130 },
  { rows: 14, inputs: 256, outputs: 64 },
];

conformance(
  "linear",
  quantizedDtypes.flatMap((dtype) => shapes.map((shape) => fileLinear(dtype, shape))),
);

conformance("linear", shapes.map(roundedLinear), { dtypes: ["q8_0", "q4_1", "q4_k"] });

conformance(
  "embed",
  (["matrix", "table"] as const).flatMap((kind) =>
    quantizedDtypes.map((dtype) => {
      return embedCase(`${dtype} blocks`, randomWeight(createRandom(3), kind, dtype, 67, 512), 9);
    }),
  ),
);

// The reference rounds to the same codes: results are equal.
conformance(
  "embed",
  (["matrix", "table"] as const).map((kind) => {
    const data = createRandom(5).normals(67 * 768);
    data.fill(0, 0, 40).fill(-1.5, 40, 80).fill(0.25, 768, 1100);
    return embedCase("rounded", { kind, rows: 67, cols: 768, data }, 67);
  }),
  { dtypes: ["q8_0", "q4_1", "q4_k"] },
);
