import { activations } from "../../lib/graph/ops.js";
import { createRandom } from "../support/random.js";
import { conformance } from "./conformance.js";
import type { OpCase } from "./op-case.js";
import { plainStep } from "./steps.js";

function activationCase(
  name: string,
  activation: number,
  tokens: number,
  width: number,
  scale = 2,
): OpCase {
  const random = createRandom(tokens * 1000 + width);
  const gate = random.normals(tokens * width, scale);
  gate[0] = 0;
  return {
    name: `${name} [${tokens}, ${width}], size ${scale}`,
    tensors: {
      gate: { rows: "tokens", width },
      up: { rows: "tokens", width },
      out: { rows: "tokens", width, isOutput: true },
    },
    ops: [
      { op: "gatedActivation", inputs: ["gate", "up"], output: "out", attributes: { activation } },
    ],
    runs: [{ step: plainStep(tokens), data: { gate, up: random.normals(tokens * width) } }],
  };
}

conformance(
  "gatedActivation",
  Object.entries(activations).flatMap(([name, activation]) => [
    activationCase(name, activation, 1, 1),
    activationCase(name, activation, 2, 3),
    activationCase(name, activation, 7, 17),
    activationCase(name, activation, 33, 65),
    activationCase(name, activation, 5, 200, 0.01),
    activationCase(name, activation, 5, 200, 1000),
  ]),
);
