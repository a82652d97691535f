import { createRandom } from "../support/random.js";
import { conformance } from "./conformance.js";
import type { CaseRun, OpCase } from "./op-case.js";
import {
  attendStep,
  batches,
  dropBlocksBehindWindow,
  scatterBlocks,
  writeContextStep,
  type RequestShape,
} from "./steps.js";

interface Options {
  batch: string;
  numHeads?: number;
  numKvHeads?: number;
  headDim?: number;
  blockSize?: number;
  /** @default 1 / sqrt(headDim) */
  scale?: number;
  slidingWindow?: number;
  softcap?: number;
  dtype?: "f32" | "bf16" | "int8";
  /** Added to random sinks of about 1 in size. @default no sinks */
  sinks?: number;
}

function attentionCase(options: Options): OpCase {
  const { batch, numHeads = 4, numKvHeads = 2, headDim = 16, blockSize = 16 } = options;
  const { scale = headDim ** -0.5, slidingWindow = 0, softcap = 0, dtype = "f32" } = options;
  const { sinks } = options;
  const shapes = batches[batch] as readonly RequestShape[];
  const { blocks, numBlocks } = scatterBlocks(shapes, blockSize);
  const random = createRandom(numHeads * 10_000 + headDim * 10 + blockSize);
  const [queryWidth, kvWidth] = [numHeads * headDim, numKvHeads * headDim];
  const run = (step: CaseRun["step"]): CaseRun => {
    const tokens = step.tokenIds.length;
    const [query, key, value] = [queryWidth, kvWidth, kvWidth].map((width) =>
      random.normals(tokens * width),
    );
    return { step, data: { query, key, value } as Record<string, Float32Array> };
  };
  const attend = attendStep(shapes, blocks, blockSize);
  const last =
    slidingWindow > 0 ? dropBlocksBehindWindow(attend, slidingWindow, blockSize) : attend;
  const hasContext = shapes.some(({ context }) => context > 0);
  return {
    name: Object.entries(options)
      .map(([name, value]) => `${name} ${value}`)
      .join(", "),
    tensors: {
      query: { rows: "tokens", width: queryWidth },
      key: { rows: "tokens", width: kvWidth },
      value: { rows: "tokens", width: kvWidth },
      out: { rows: "tokens", width: queryWidth, isOutput: true },
    },
    ...(sinks !== undefined && {
      weights: {
        sinks: {
          kind: "vector",
          rows: 1,
          cols: numHeads,
          data: createRandom(numHeads)
            .normals(numHeads)
            .map((x) => x + sinks),
        },
      },
    }),
    ops: [
      { op: "cacheWrite", inputs: ["key", "value"], attributes: { layer: 0 } },
      {
        op: "attention",
        inputs: ["query"],
        output: "out",
        ...(sinks !== undefined && { weights: ["sinks"] }),
        attributes: { layer: 0, numHeads, scale, slidingWindow, softcap },
      },
    ],
    kv: { layer: { numKvHeads, headDim }, numBlocks, blockSize, dtype },
    runs: [...(hasContext ? [run(writeContextStep(shapes, blocks, blockSize))] : []), run(last)],
  };
}

conformance("attention", [
  ...Object.keys(batches).map((batch) => attentionCase({ batch })),
  ...[1, 3, 16, 256].map((blockSize) => attentionCase({ batch: "mixed", blockSize })),
  ...[1, 3, 17, 64, 65, 128, 256].map((headDim) => attentionCase({ batch: "mixed", headDim })),
  attentionCase({ batch: "mixed", numHeads: 1, numKvHeads: 1 }),
  attentionCase({ batch: "mixed", numHeads: 6, numKvHeads: 6 }),
  attentionCase({ batch: "mixed", numHeads: 5, numKvHeads: 1, headDim: 10 }),
  attentionCase({ batch: "mixed", numHeads: 14, numKvHeads: 2 }),
  ...[1, 2, 7, 16, 40].map((slidingWindow) =>
    attentionCase({ batch: "mixed", slidingWindow, blockSize: 3 }),
  ),
  attentionCase({ batch: "long context", slidingWindow: 600 }),
  attentionCase({ batch: "mixed", softcap: 2 }),
  attentionCase({ batch: "long context", softcap: 30, scale: 10 }),
  attentionCase({ batch: "mixed", scale: 30 }), // nearly one-hot
  attentionCase({ batch: "mixed", scale: 0 }), // the mean of the values
  attentionCase({ batch: "mixed", dtype: "bf16" }),
  attentionCase({ batch: "long context", dtype: "bf16", headDim: 65 }),
  attentionCase({ batch: "mixed", dtype: "bf16", slidingWindow: 7, blockSize: 3, headDim: 17 }),
  // Sizes that GPUs have kernels of their own for.
  attentionCase({ batch: "mixed", dtype: "bf16", headDim: 64 }),
  attentionCase({ batch: "prefill", dtype: "bf16", headDim: 128, numHeads: 6 }),
  attentionCase({
    batch: "chunk",
    dtype: "bf16",
    headDim: 64,
    softcap: 5,
    numHeads: 20,
    numKvHeads: 1,
  }),
  attentionCase({ batch: "long context", dtype: "bf16", headDim: 128, numHeads: 2, numKvHeads: 1 }),
  attentionCase({
    batch: "long context",
    dtype: "bf16",
    headDim: 64,
    slidingWindow: 600,
    sinks: 2,
  }),
  attentionCase({
    batch: "mixed",
    dtype: "bf16",
    headDim: 128,
    slidingWindow: 7,
    sinks: 1,
    blockSize: 3,
  }),
  attentionCase({ batch: "mixed", dtype: "int8" }),
  attentionCase({ batch: "mixed", dtype: "int8", headDim: 64, softcap: 2 }),
  attentionCase({ batch: "long context", dtype: "int8", headDim: 65 }),
  attentionCase({ batch: "mixed", dtype: "int8", slidingWindow: 7, blockSize: 3, headDim: 17 }),
  ...[0, 5, 200, -200, -Infinity].map((sinks) => attentionCase({ batch: "mixed", sinks })),
  attentionCase({ batch: "long context", sinks: 2, slidingWindow: 600, softcap: 30 }),
  attentionCase({ batch: "mixed", sinks: 1, numHeads: 14, numKvHeads: 2, slidingWindow: 7 }),
  attentionCase({ batch: "long context", sinks: 3, dtype: "bf16", headDim: 65 }),
  attentionCase({ batch: "mixed", sinks: 1, dtype: "int8" }),
]);
