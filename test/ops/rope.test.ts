import { createRandom } from "../support/random.js";
import { conformance } from "./conformance.js";
import type { OpCase } from "./op-case.js";
import { plainStep } from "./steps.js";

interface Shape {
  tokens: number;
  heads: number;
  headDim: number;
  rotaryDim?: number;
  interleaved?: number;
  inPlace?: boolean;
}

function ropeCase({
  tokens,
  heads,
  headDim,
  rotaryDim = headDim,
  interleaved = 0,
  inPlace = false,
}: Shape): OpCase {
  const random = createRandom(tokens * 1000 + heads * headDim + rotaryDim);
  const width = heads * headDim;
  const angles = Array.from({ length: tokens * (rotaryDim / 2) }, () => random.uniform() * 6.3);
  const half = rotaryDim / 2;
  const table = Float32Array.from({ length: tokens * rotaryDim }, (_, i) => {
    const [token, column] = [Math.floor(i / rotaryDim), i % rotaryDim];
    const angle = angles[token * half + (column % half)] as number;
    return column < half ? Math.cos(angle) : Math.sin(angle);
  });
  return {
    name: `${tokens} tokens, ${heads} heads of ${headDim}, ${rotaryDim} rotated${interleaved ? ", interleaved" : ""}${inPlace ? ", in place" : ""}`,
    tensors: {
      x: { rows: "tokens", width, isOutput: inPlace },
      table: { rows: "tokens", width: rotaryDim },
      ...(inPlace ? {} : { out: { rows: "tokens", width, isOutput: true } }),
    },
    ops: [
      {
        op: "rope",
        inputs: ["x", "table"],
        output: inPlace ? "x" : "out",
        attributes: { headDim, rotaryDim, interleaved },
      },
    ],
    runs: [{ step: plainStep(tokens), data: { x: random.normals(tokens * width), table } }],
  };
}

const shapes: Shape[] = [
  { tokens: 1, heads: 1, headDim: 2 },
  { tokens: 3, heads: 3, headDim: 6 },
  { tokens: 7, heads: 2, headDim: 17, rotaryDim: 10 },
  { tokens: 5, heads: 4, headDim: 65, rotaryDim: 64 },
  { tokens: 33, heads: 2, headDim: 16, rotaryDim: 4 },
  { tokens: 2, heads: 3, headDim: 128 },
  { tokens: 2, heads: 1, headDim: 80, rotaryDim: 32 },
];

conformance(
  "rope",
  shapes.flatMap((shape) =>
    [0, 1].flatMap((interleaved) => [
      ropeCase({ ...shape, interleaved }),
      ropeCase({ ...shape, interleaved, inPlace: true }),
    ]),
  ),
);
