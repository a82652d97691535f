import { elementsPerToken } from "../../lib/graph/kv-groups.js";
import type { KvShape } from "../../lib/graph/plan.js";
import { createRandom } from "../support/random.js";
import { conformance } from "./conformance.js";
import type { CaseOp, CaseRun, OpCase } from "./op-case.js";
import { attendStep, scatterBlocks, type RequestShape } from "./steps.js";

interface Options {
  layer: KvShape;
  blockSize: number;
  dtype?: "f32" | "bf16" | "int8";
}

/** Ranges of five sequences: from the first token, from within a block, the last token alone, a first one, across blocks. */
const ranges: readonly RequestShape[] = [
  { context: 0, tokens: 37 },
  { context: 5, tokens: 11 },
  { context: 63, tokens: 1 },
  { context: 0, tokens: 1 },
  { context: 17, tokens: 55 },
];

function widthsOf({ numKvHeads, headDim, latentDim }: KvShape): Record<string, number> {
  if (latentDim !== undefined) return { latent: latentDim, ropeKey: headDim - latentDim };
  return { key: numKvHeads * headDim, value: numKvHeads * headDim };
}

/** All tokens are written, then ranges of them are read, nothing being written. */
function gatherCase({ layer, blockSize, dtype = "f32" }: Options): OpCase {
  const widths = widthsOf(layer);
  const random = createRandom(blockSize * 1000 + layer.headDim);
  const { blocks, numBlocks } = scatterBlocks(ranges, blockSize);
  const whole = ranges.map(({ context, tokens }) => ({ context: 0, tokens: context + tokens }));
  const run = (step: CaseRun["step"]): CaseRun => {
    const data = Object.entries(widths).map(([name, width]) => {
      return [name, random.normals(step.tokenIds.length * width)] as const;
    });
    return { step, data: Object.fromEntries(data) };
  };
  const read = attendStep(ranges, blocks, blockSize);
  const write: CaseOp["op"] = layer.latentDim === undefined ? "cacheWrite" : "latentWrite";
  const tensors = Object.entries(widths).map(([name, width]) => {
    return [name, { rows: "tokens", width }] as const;
  });
  const last = layer.latentDim === undefined ? "" : ` with latents of ${layer.latentDim}`;
  return {
    name: `${layer.numKvHeads} heads of ${layer.headDim}${last}, blocks of ${blockSize}, ${dtype}`,
    tensors: {
      ...Object.fromEntries(tensors),
      out: { rows: "tokens", width: elementsPerToken(layer), isOutput: true },
    },
    ops: [
      { op: write, inputs: Object.keys(widths), attributes: { layer: 0 } },
      { op: "gatherKv", inputs: [], output: "out", attributes: { layer: 0, layout: 0 } },
    ],
    kv: { layer, numBlocks, blockSize, dtype },
    runs: [
      run(attendStep(whole, blocks, blockSize)),
      run({ ...read, slotMapping: read.slotMapping.map(() => -1) }),
    ],
  };
}

/** Block 1 is copied to 3 and on to 4, 2 to 1; then blocks 4 and 1 are read. */
function copiedCase(layer: KvShape, dtype: "f32" | "bf16" | "int8"): OpCase {
  const blockSize = 3;
  const opCase = gatherCase({ layer, blockSize, dtype });
  const shapes = [{ context: 0, tokens: 2 * blockSize }];
  const random = createRandom(1);
  const run = (step: CaseRun["step"]): CaseRun => {
    const data = Object.entries(widthsOf(layer)).map(([name, width]) => {
      return [name, random.normals(step.tokenIds.length * width)] as const;
    });
    return { step, data: Object.fromEntries(data) };
  };
  const read = attendStep(shapes, [[4, 1]], blockSize);
  const slotMapping = read.slotMapping.map(() => -1);
  const blockCopies = Int32Array.of(1, 3, 3, 4, 2, 1);
  return {
    ...opCase,
    name: `copied, ${opCase.name}`,
    runs: [
      run(attendStep(shapes, [[1, 2]], blockSize)),
      run({ ...read, slotMapping, blockCopies }),
    ],
  };
}

const dtypes = ["f32", "bf16", "int8"] as const;
const latent: KvShape = { numKvHeads: 1, headDim: 44, latentDim: 34 };

conformance("gatherKv", [
  ...dtypes.flatMap((dtype) => [
    gatherCase({ layer: { numKvHeads: 1, headDim: 1 }, blockSize: 1, dtype }),
    gatherCase({ layer: { numKvHeads: 3, headDim: 17 }, blockSize: 3, dtype }),
    gatherCase({ layer: { numKvHeads: 2, headDim: 64 }, blockSize: 16, dtype }),
  ]),
]);

conformance("latentWrite", [
  ...dtypes.flatMap((dtype) => [
    gatherCase({ layer: { numKvHeads: 1, headDim: 4, latentDim: 2 }, blockSize: 1, dtype }),
    gatherCase({ layer: latent, blockSize: 3, dtype }),
    gatherCase({ layer: { numKvHeads: 1, headDim: 576, latentDim: 512 }, blockSize: 16, dtype }),
    copiedCase(latent, dtype),
  ]),
]);
