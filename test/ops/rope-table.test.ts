import { createRandom } from "../support/random.js";
import { conformance } from "./conformance.js";
import type { OpCase } from "./op-case.js";
import { plainStep } from "./steps.js";

function ropeTableCase(
  tokens: number,
  half: number,
  options: { scaling?: number; last?: number } = {},
): OpCase {
  const { scaling = 1, last = 4096 } = options;
  const random = createRandom(tokens * 100 + half);
  const positions = Int32Array.from({ length: tokens }, () => random.integer(last));
  positions[tokens - 1] = last;
  const data = Float32Array.from({ length: half }, (_, i) => 10_000 ** (-i / half));
  return {
    name: `${tokens} tokens up to position ${last}, ${half} frequencies, scaling ${scaling}`,
    tensors: { out: { rows: "tokens", width: 2 * half, isOutput: true } },
    weights: { frequency: { kind: "vector", rows: 1, cols: half, data } },
    ops: [
      {
        op: "ropeTable",
        inputs: [],
        output: "out",
        weights: ["frequency"],
        attributes: { scaling },
      },
    ],
    runs: [{ step: plainStep(tokens, { positions }), data: {} }],
  };
}

conformance("ropeTable", [
  ropeTableCase(1, 1, { last: 0 }),
  ropeTableCase(2, 3),
  ropeTableCase(7, 5, { scaling: 1.1386294 }),
  ropeTableCase(33, 16, { last: 131_071 }),
  ropeTableCase(5, 65, { last: 1_000_000 }),
  ropeTableCase(3, 8, { last: 2 ** 31 - 1 }),
]);
