import { createRandom } from "../support/random.js";
import { conformance } from "./conformance.js";
import type { OpCase } from "./op-case.js";
import { plainStep } from "./steps.js";

function embedCase(
  kind: "table" | "matrix",
  rows: number,
  width: number,
  tokens: number,
  scale: number,
): OpCase {
  const random = createRandom(rows * 1000 + width + tokens);
  const tokenIds = Int32Array.from({ length: tokens }, () => random.integer(rows));
  tokenIds[0] = rows - 1;
  return {
    name: `${kind} [${rows}, ${width}], ${tokens} tokens, scale ${scale}`,
    tensors: { out: { rows: "tokens", width, isOutput: true } },
    weights: { table: { kind, rows, cols: width, data: random.normals(rows * width) } },
    ops: [{ op: "embed", inputs: [], output: "out", weights: ["table"], attributes: { scale } }],
    vocabSize: rows,
    runs: [{ step: plainStep(tokens, { tokenIds }), data: {} }],
  };
}

conformance(
  "embed",
  (["table", "matrix"] as const).flatMap((kind) => [
    embedCase(kind, 2, 1, 1, 1),
    embedCase(kind, 5, 3, 4, 1),
    embedCase(kind, 37, 17, 7, 8),
    embedCase(kind, 131, 65, 33, 33.94112549695428),
    embedCase(kind, 64, 128, 3, 0.5),
  ]),
  { dtypes: ["f32", "bf16"] },
);
