import { createRandom } from "../support/random.js";
import { conformance } from "./conformance.js";
import type { OpCase } from "./op-case.js";
import { plainStep } from "./steps.js";

interface Shape {
  tokens: number;
  width: number;
  groupWidth?: number;
  eps?: number;
  weightOffset?: number;
  scale?: number;
  inPlace?: boolean;
}

function rmsNormCase({
  tokens,
  width,
  groupWidth = width,
  eps = 1e-6,
  weightOffset = 0,
  scale = 1,
  inPlace = false,
}: Shape): OpCase {
  const random = createRandom(tokens * 1000 + width);
  const out = inPlace ? "x" : "out";
  return {
    name: `[${tokens}, ${width}] in groups of ${groupWidth}, offset ${weightOffset}, size ${scale}${inPlace ? ", in place" : ""}`,
    tensors: {
      x: { rows: "tokens", width, isOutput: inPlace },
      ...(inPlace ? {} : { out: { rows: "tokens", width, isOutput: true } }),
    },
    weights: {
      weight: { kind: "vector", rows: 1, cols: groupWidth, data: random.normals(groupWidth) },
    },
    ops: [
      {
        op: "rmsNorm",
        inputs: ["x"],
        output: out,
        weights: ["weight"],
        attributes: { groupWidth, eps, weightOffset },
      },
    ],
    runs: [{ step: plainStep(tokens), data: { x: random.normals(tokens * width, scale) } }],
  };
}

conformance("rmsNorm", [
  rmsNormCase({ tokens: 1, width: 1 }),
  rmsNormCase({ tokens: 2, width: 3 }),
  rmsNormCase({ tokens: 7, width: 17, eps: 1e-5 }),
  rmsNormCase({ tokens: 33, width: 65, weightOffset: 1 }),
  rmsNormCase({ tokens: 3, width: 300 }),
  rmsNormCase({ tokens: 5, width: 64, groupWidth: 16 }),
  rmsNormCase({ tokens: 5, width: 51, groupWidth: 17, weightOffset: 1 }),
  rmsNormCase({ tokens: 4, width: 12, groupWidth: 1 }),
  rmsNormCase({ tokens: 5, width: 65, inPlace: true }),
  rmsNormCase({ tokens: 5, width: 48, groupWidth: 12, inPlace: true }),
  rmsNormCase({ tokens: 3, width: 65, scale: 0 }),
  rmsNormCase({ tokens: 3, width: 65, scale: 1e-4 }),
  rmsNormCase({ tokens: 3, width: 65, scale: 1e4 }),
]);
