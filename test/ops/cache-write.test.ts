import { createRandom } from "../support/random.js";
import { conformance } from "./conformance.js";
import type { CaseRun, OpCase } from "./op-case.js";
import { attendStep, scatterBlocks } from "./steps.js";

interface Shape {
  tokens: number;
  numKvHeads: number;
  headDim: number;
  blockSize: number;
  dtype?: "f32" | "bf16" | "int8";
}

/**
 * All tokens are written, then every third one of them again, the others having slot -1. With a window of one token,
 * attention gives back the values as they are stored. (What keys are stored shows in the tests of attention.)
 */
function cacheWriteCase({ tokens, numKvHeads, headDim, blockSize, dtype = "f32" }: Shape): OpCase {
  const random = createRandom(tokens * 1000 + headDim);
  const width = numKvHeads * headDim;
  const shapes = [{ context: 0, tokens }];
  const { blocks, numBlocks } = scatterBlocks(shapes, blockSize);
  const step = attendStep(shapes, blocks, blockSize);
  const slotMapping = step.slotMapping.map((slot, i) => (i % 3 === 0 ? slot : -1));
  const run = (step: CaseRun["step"]): CaseRun => {
    const [query, key, value] = [0, 1, 2].map(() => random.normals(tokens * width));
    return { step, data: { query, key, value } as Record<string, Float32Array> };
  };
  return {
    name: `${tokens} tokens, ${numKvHeads} heads of ${headDim}, blocks of ${blockSize}, ${dtype}`,
    tensors: {
      query: { rows: "tokens", width },
      key: { rows: "tokens", width },
      value: { rows: "tokens", width },
      out: { rows: "tokens", width, isOutput: true },
    },
    ops: [
      { op: "cacheWrite", inputs: ["key", "value"], attributes: { layer: 0 } },
      {
        op: "attention",
        inputs: ["query"],
        output: "out",
        attributes: { layer: 0, numHeads: numKvHeads, scale: 1, slidingWindow: 1, softcap: 0 },
      },
    ],
    kv: { layer: { numKvHeads, headDim }, numBlocks, blockSize, dtype },
    runs: [run(step), run({ ...step, slotMapping })],
  };
}

conformance("cacheWrite", [
  cacheWriteCase({ tokens: 1, numKvHeads: 1, headDim: 1, blockSize: 1 }),
  cacheWriteCase({ tokens: 7, numKvHeads: 3, headDim: 3, blockSize: 3 }),
  cacheWriteCase({ tokens: 33, numKvHeads: 2, headDim: 17, blockSize: 16 }),
  cacheWriteCase({ tokens: 40, numKvHeads: 1, headDim: 65, blockSize: 16 }),
  cacheWriteCase({ tokens: 40, numKvHeads: 4, headDim: 64, blockSize: 5, dtype: "bf16" }),
  cacheWriteCase({ tokens: 9, numKvHeads: 2, headDim: 17, blockSize: 256, dtype: "bf16" }),
  cacheWriteCase({ tokens: 40, numKvHeads: 4, headDim: 64, blockSize: 5, dtype: "int8" }),
  cacheWriteCase({ tokens: 9, numKvHeads: 3, headDim: 17, blockSize: 1, dtype: "int8" }),
]);
