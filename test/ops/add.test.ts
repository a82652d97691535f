import { createRandom } from "../support/random.js";
import { conformance } from "./conformance.js";
import type { OpCase } from "./op-case.js";
import { plainStep } from "./steps.js";

function addCase(tokens: number, width: number, out: "out" | "a" | "b" = "out"): OpCase {
  const random = createRandom(tokens * 1000 + width);
  return {
    name: `[${tokens}, ${width}] into ${out}`,
    tensors: {
      a: { rows: "tokens", width, isOutput: out === "a" },
      b: { rows: "tokens", width, isOutput: out === "b" },
      ...(out === "out" ? { out: { rows: "tokens", width, isOutput: true } } : {}),
    },
    ops: [{ op: "add", inputs: ["a", "b"], output: out }],
    runs: [
      {
        step: plainStep(tokens),
        data: { a: random.normals(tokens * width), b: random.normals(tokens * width) },
      },
    ],
  };
}

conformance("add", [
  addCase(1, 1),
  addCase(2, 3),
  addCase(7, 17),
  addCase(33, 65),
  addCase(5, 65, "a"),
  addCase(5, 17, "b"),
  addCase(3, 1000, "a"),
]);
