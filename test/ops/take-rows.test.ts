import { createRandom } from "../support/random.js";
import { greedySampling } from "../support/step.js";
import { conformance } from "./conformance.js";
import type { OpCase } from "./op-case.js";
import { plainStep } from "./steps.js";

function takeRowsCase(tokens: number, width: number, rows: readonly number[]): OpCase {
  const random = createRandom(tokens * 1000 + width);
  const step = {
    ...plainStep(tokens),
    outputRows: Int32Array.from(rows),
    sampling: greedySampling(rows.length),
  };
  return {
    name: `rows ${rows.join(", ")} of [${tokens}, ${width}]`,
    tensors: { x: { rows: "tokens", width }, out: { rows: "outputs", width, isOutput: true } },
    ops: [{ op: "takeRows", inputs: ["x"], output: "out" }],
    runs: [{ step, data: { x: random.normals(tokens * width) } }],
  };
}

conformance("takeRows", [
  takeRowsCase(1, 1, [0]),
  takeRowsCase(5, 3, [4, 0]),
  takeRowsCase(9, 17, [8, 8, 0, 3]), // any order, more than once
  takeRowsCase(4, 65, [0, 1, 2, 3]),
  takeRowsCase(3, 17, []),
]);
