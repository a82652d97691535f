import type { KeptDtype } from "../../lib/graph/dtypes.js";
import { createRandom } from "../support/random.js";
import { conformance } from "./conformance.js";
import type { CaseRun, CaseWeight, OpCase } from "./op-case.js";
import { quantizedDtypes, randomHalves, randomWeight } from "./random-blocks.js";
import {
  attendStep,
  batches,
  scatterBlocks,
  writeContextStep,
  type RequestShape,
} from "./steps.js";

interface Options {
  batch: string;
  numHeads?: number;
  latentDim?: number;
  ropeDim?: number;
  nopeDim?: number;
  valueDim?: number;
  blockSize?: number;
  scale?: number;
  /** Of the cache. */
  dtype?: "f32" | "bf16" | "int8";
  /** @default 0, never */
  expandFrom?: number;
  /** What a file holds, of which the weights are made. */
  file?: KeptDtype;
}

/** Of each head the matrix transposed. A file is not: its values become elements of the type under test. */
function transposeHeads({ data, rows, cols }: CaseWeight, numHeads: number): CaseWeight {
  const ofHead = rows / numHeads;
  const transposed = data.map((_, i) => {
    const [row, col] = [Math.floor(i / ofHead), i % ofHead];
    const [head, d] = [Math.floor(row / cols), row % cols];
    return data[(head * ofHead + col) * cols + d] ?? NaN;
  });
  return { kind: "matrix", rows: numHeads * cols, cols: ofHead, data: transposed };
}

function mlaCase(options: Options): OpCase {
  const { batch, numHeads = 4, latentDim = 32, ropeDim = 8, blockSize = 16 } = options;
  const {
    nopeDim = 16,
    valueDim = 12,
    scale = (nopeDim + ropeDim) ** -0.5,
    dtype = "f32",
    file,
    expandFrom = 0,
  } = options;
  const shapes = batches[batch] as readonly RequestShape[];
  const { blocks, numBlocks } = scatterBlocks(shapes, blockSize);
  const random = createRandom(numHeads * 10_000 + latentDim * 10 + blockSize);
  const widths = {
    query: numHeads * nopeDim,
    queryRope: numHeads * ropeDim,
    latent: latentDim,
    ropeKey: ropeDim,
  };
  const weight = (rows: number, cols: number): CaseWeight => {
    if (file === "f16") return randomHalves(random, rows, cols);
    if (file !== undefined) return randomWeight(random, "matrix", file, rows, cols);
    const data = random.normals(rows * cols).map((x) => x / Math.sqrt(cols));
    return { kind: "matrix", rows, cols, data };
  };
  const keyUp = weight(numHeads * latentDim, nopeDim);
  const valueUp = weight(numHeads * valueDim, latentDim);
  const run = (step: CaseRun["step"]): CaseRun => {
    const tokens = step.tokenIds.length;
    const data = Object.entries(widths).map(([name, width]) => {
      const values = random.normals(tokens * width);
      // Blocks of a file are not normalised: smaller latents keep outputs of a size.
      return [
        name,
        name === "latent" && file !== undefined ? values.map((x) => x / 8) : values,
      ] as const;
    });
    return { step, data: Object.fromEntries(data) };
  };
  const hasContext = shapes.some(({ context }) => context > 0);
  return {
    name: Object.entries(options)
      .map(([name, value]) => `${name} ${value}`)
      .join(", "),
    tensors: {
      ...Object.fromEntries(
        Object.entries(widths).map(([name, width]) => [name, { rows: "tokens", width }] as const),
      ),
      out: { rows: "tokens", width: numHeads * valueDim, isOutput: true },
    },
    weights: { keyUp, valueUp, keyExpand: transposeHeads(keyUp, numHeads) },
    ops: [
      { op: "latentWrite", inputs: ["latent", "ropeKey"], attributes: { layer: 0 } },
      {
        op: "mlaAttention",
        inputs: ["query", "queryRope"],
        output: "out",
        weights: ["keyUp", "valueUp", "keyExpand"],
        attributes: { layer: 0, numHeads, scale, expandFrom },
      },
    ],
    kv: {
      layer: { numKvHeads: 1, headDim: latentDim + ropeDim, latentDim },
      numBlocks,
      blockSize,
      dtype,
    },
    runs: [
      ...(hasContext ? [run(writeContextStep(shapes, blocks, blockSize))] : []),
      run(attendStep(shapes, blocks, blockSize)),
    ],
  };
}

conformance("mlaAttention", [
  ...Object.keys(batches).map((batch) => mlaCase({ batch })),
  ...[1, 3, 16, 256].map((blockSize) => mlaCase({ batch: "mixed", blockSize })),
  ...[1, 3, 16, 128, 200].map((numHeads) => mlaCase({ batch: "mixed", numHeads })),
  mlaCase({ batch: "mixed", latentDim: 2, ropeDim: 2 }),
  mlaCase({ batch: "mixed", latentDim: 34, ropeDim: 10 }),
  mlaCase({ batch: "mixed", latentDim: 256, ropeDim: 32 }), // MiniCPM3
  mlaCase({ batch: "mixed", nopeDim: 7, valueDim: 70, numHeads: 3 }),
  mlaCase({ batch: "mixed", nopeDim: 1, valueDim: 1, numHeads: 1 }),
  mlaCase({ batch: "mixed", nopeDim: 40, valueDim: 130, latentDim: 50, numHeads: 3 }),
  mlaCase({
    batch: "chunk",
    latentDim: 512,
    ropeDim: 64,
    nopeDim: 128,
    valueDim: 128,
    numHeads: 16,
  }), // DeepSeek-V2-Lite
  mlaCase({ batch: "mixed", scale: 4 }), // nearly one-hot
  mlaCase({ batch: "mixed", scale: 0 }), // the mean of the values
  ...(["bf16", "int8"] as const).flatMap((dtype) => [
    mlaCase({ batch: "mixed", dtype }),
    mlaCase({ batch: "long context", dtype, latentDim: 34, ropeDim: 10 }),
    mlaCase({ batch: "mixed", dtype, blockSize: 3, numHeads: 5 }),
    mlaCase({ batch: "chunk", dtype, latentDim: 512, ropeDim: 64, numHeads: 16 }),
  ]),
]);

const ofWholeBlocks = { latentDim: 64, nopeDim: 32, valueDim: 24 };

conformance(
  "mlaAttention",
  [
    mlaCase({ batch: "mixed", ...ofWholeBlocks }),
    mlaCase({ batch: "long context", ...ofWholeBlocks, numHeads: 3 }),
    mlaCase({ batch: "mixed", ...ofWholeBlocks, numHeads: 16, valueDim: 50 }),
    mlaCase({ batch: "mixed", ...ofWholeBlocks, dtype: "int8" }),
  ],
  { dtypes: ["bf16", "q8_0"] },
);

conformance("mlaAttention", [
  mlaCase({ batch: "mixed", file: "f16", numHeads: 5 }),
  ...quantizedDtypes.map((file) =>
    mlaCase({ batch: "chunk", file, latentDim: 256, nopeDim: 256, numHeads: 3, scale: 0.01 }),
  ),
]);

conformance("mlaAttention", [
  ...Object.keys(batches).map((batch) => mlaCase({ batch, expandFrom: 1 })),
  ...[1, 3, 16].map((numHeads) => mlaCase({ batch: "mixed", numHeads, expandFrom: 5 })),
  mlaCase({ batch: "mixed", expandFrom: 1, nopeDim: 7, valueDim: 70, numHeads: 3 }),
  mlaCase({ batch: "mixed", expandFrom: 1, nopeDim: 1, valueDim: 1, numHeads: 70, blockSize: 3 }),
  ...(["bf16", "int8"] as const).flatMap((dtype) => [
    mlaCase({ batch: "mixed", expandFrom: 1, dtype, nopeDim: 7, valueDim: 70, numHeads: 5 }),
    mlaCase({ batch: "long context", expandFrom: 2, dtype }),
  ]),
  // Heads wide enough for the tensor cores.
  ...Object.keys(batches).map((batch) =>
    mlaCase({
      batch,
      expandFrom: 3,
      dtype: "bf16",
      latentDim: 40,
      nopeDim: 72,
      valueDim: 64,
      numHeads: 3,
    }),
  ),
]);

conformance(
  "mlaAttention",
  [
    mlaCase({ batch: "mixed", ...ofWholeBlocks, expandFrom: 2 }),
    mlaCase({ batch: "mixed", ...ofWholeBlocks, expandFrom: 1, numHeads: 16, dtype: "bf16" }),
  ],
  { dtypes: ["bf16", "q8_0"] },
);
