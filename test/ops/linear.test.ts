import { createRandom } from "../support/random.js";
import { conformance } from "./conformance.js";
import type { OpCase } from "./op-case.js";
import { plainStep } from "./steps.js";

function linearCase(
  rows: number,
  inputs: number,
  outputs: number,
  options: { bias?: boolean; of?: "outputs" } = {},
): OpCase {
  const { bias = false, of = "tokens" } = options;
  const random = createRandom(rows * 100_000 + inputs * 300 + outputs);
  return {
    name: `[${rows} ${of}, ${inputs}] x [${outputs}, ${inputs}]${bias ? " + bias" : ""}`,
    tensors: { x: { rows: of, width: inputs }, out: { rows: of, width: outputs, isOutput: true } },
    weights: {
      weight: {
        kind: "matrix",
        rows: outputs,
        cols: inputs,
        data: random.normals(outputs * inputs, inputs ** -0.5),
      },
      ...(bias
        ? {
            bias: {
              kind: "vector" as const,
              rows: 1,
              cols: outputs,
              data: random.normals(outputs),
            },
          }
        : {}),
    },
    ops: [
      {
        op: "linear",
        inputs: ["x"],
        output: "out",
        weights: ["weight", bias ? "bias" : undefined],
      },
    ],
    runs: [{ step: plainStep(rows), data: { x: random.normals(rows * inputs) } }],
  };
}

const odd = [1, 3, 17, 65];

conformance(
  "linear",
  [
    ...odd.flatMap((inputs) =>
      odd.map((outputs) => linearCase(5, inputs, outputs, { bias: outputs !== 3 })),
    ),
    ...[1, 2, 4, 13, 64, 130].map((rows) => linearCase(rows, 33, 49)),
    linearCase(1, 256, 512),
    linearCase(3, 5000, 7), // deeper than one slice of a panel
    linearCase(7, 40, 131, { of: "outputs", bias: true }),
  ],
  { dtypes: ["f32", "bf16"] },
);
