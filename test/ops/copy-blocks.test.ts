import { createRandom } from "../support/random.js";
import { conformance } from "./conformance.js";
import type { CaseRun, OpCase } from "./op-case.js";
import { attendStep, writeContextStep } from "./steps.js";

interface Shape {
  numKvHeads: number;
  headDim: number;
  blockSize: number;
  dtype?: "f32" | "bf16" | "int8";
}

/** Blocks 1 and 2 are written; 1 is copied to 3, 3 on to 4, and 2 to 1; then a token attends to blocks 4, 1 and its own 5. */
function copyBlocksCase({ numKvHeads, headDim, blockSize, dtype = "f32" }: Shape): OpCase {
  const random = createRandom(blockSize * 1000 + headDim);
  const width = numKvHeads * headDim;
  const run = (step: CaseRun["step"]): CaseRun => {
    const [query, key, value] = [0, 1, 2].map(() => random.normals(step.tokenIds.length * width));
    return { step, data: { query, key, value } as Record<string, Float32Array> };
  };
  const shapes = [{ context: 2 * blockSize, tokens: 1 }];
  const blockCopies = Int32Array.of(1, 3, 3, 4, 2, 1);
  return {
    name: `${numKvHeads} heads of ${headDim}, blocks of ${blockSize}, ${dtype}`,
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
        attributes: { layer: 0, numHeads: numKvHeads, scale: 1, slidingWindow: 0, softcap: 0 },
      },
    ],
    kv: { layer: { numKvHeads, headDim }, numBlocks: 6, blockSize, dtype },
    runs: [
      run(writeContextStep(shapes, [[1, 2]], blockSize)),
      run({ ...attendStep(shapes, [[4, 1, 5]], blockSize), blockCopies }),
    ],
  };
}

conformance("copyBlocks", [
  copyBlocksCase({ numKvHeads: 1, headDim: 1, blockSize: 1 }),
  copyBlocksCase({ numKvHeads: 2, headDim: 3, blockSize: 3 }),
  copyBlocksCase({ numKvHeads: 2, headDim: 17, blockSize: 16 }),
  copyBlocksCase({ numKvHeads: 1, headDim: 64, blockSize: 16, dtype: "bf16" }),
  copyBlocksCase({ numKvHeads: 3, headDim: 17, blockSize: 3, dtype: "int8" }),
]);
