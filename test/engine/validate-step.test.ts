import { describe, expect, it } from "vitest";
import type { ExecutorLimits } from "../../lib/engine/executor.js";
import type { Lists, SamplingControls, SamplingInput, StepInput } from "../../lib/engine/step.js";
import { validateStep } from "../../lib/engine/validate-step.js";
import { compile } from "../../lib/graph/compile.js";
import { createGraph, type Graph } from "../../lib/graph/graph.js";
import { makeControls } from "../support/controls.js";
import { executorKinds } from "../support/executors.js";
import { makeStep } from "../support/step.js";

const kinds = (await executorKinds()).filter((kind) => !kind.mayLackOps);

const limits: ExecutorLimits = {
  maxTokens: 8,
  maxRequests: 2,
  maxOutputs: 3,
  numBlocks: 6,
  kvGroups: [{ slidingWindow: 0 }],
  blockSize: 4,
  vocabSize: 100,
};

/** Two requests: five new tokens, and one after six. */
const valid = makeStep(
  [
    { tokenIds: [1, 2, 3, 4, 99], blocks: [1, 2], outputs: [4] },
    { tokenIds: [7], numComputedTokens: 6, blocks: [5, 3], outputs: [0] },
  ],
  4,
);

const ints = (...values: number[]): Int32Array => Int32Array.from(values);
const sampling = (change: Partial<SamplingInput>): Partial<StepInput> => ({
  sampling: { ...valid.sampling, ...change },
});

function errorOf(change: Partial<StepInput>): unknown {
  try {
    validateStep({ ...valid, ...change }, limits);
    return undefined;
  } catch (error) {
    return error;
  }
}

const validControls = makeControls([
  {
    allowed: [1, 5],
    banned: [9, 9],
    biased: new Map([[3, 1]]),
    history: [1, 2, 3],
    dryBreakers: [4, 6],
  },
  { history: [7], numPromptTokens: 1, dry: [1, 2, 3, 4], xtc: [0.5, 0.1] },
]);

function controls(change: Partial<SamplingControls>): Partial<StepInput> {
  return sampling({ controls: { ...validControls, ...change } });
}

const realNames = [
  "repetitionPenalty",
  "frequencyPenalty",
  "presencePenalty",
  "dryMultiplier",
  "dryBase",
  "typicalP",
  "xtcProbability",
  "xtcThreshold",
] as const;
const listNames = ["allowed", "banned", "biased", "history", "dryBreakers"] as const;

/** Each array of the controls, broken in each way that can lead a kernel astray. */
const controlMistakes: [string, Partial<StepInput>][] = [
  ...listNames.flatMap((name): [string, Partial<StepInput>][] => {
    const { values, offsets } = validControls[name];
    const broken = (list: Partial<Lists>) => controls({ [name]: { values, offsets, ...list } });
    const at = `sampling.controls.${name}`;
    const id = (value: number) => broken({ values: values.with(0, value) });
    return [
      [`${at}.values[0]`, id(-1)],
      [`${at}.values[0]`, id(100)],
      [`${at}.offsets`, broken({ offsets: offsets.subarray(1) })],
      [`${at}.offsets[0]`, broken({ offsets: offsets.with(0, 1) })],
      [`${at}.offsets[0]`, broken({ offsets: offsets.with(1, -1) })],
      [`${at}.offsets[0]`, broken({ offsets: offsets.with(1, 2 ** 31 - 1) })],
      [`${at}.offsets`, broken({ values: Int32Array.of(...values, 1) })],
      [`${at}.values`, broken({ values: Float32Array.from(values) as never })],
    ];
  }),
  ...(["allowed", "biased", "dryBreakers"] as const).map((name): [string, Partial<StepInput>] => [
    `sampling.controls.${name}.values[1]`,
    controls({
      [name]: { values: ints(5, 5), offsets: ints(0, 2, 2) },
      ...(name === "biased" && { biases: new Float32Array(2) }),
    }),
  ]),
  ["sampling.controls.biases", controls({ biases: new Float32Array(2) })],
  ["sampling.controls.biases[0]", controls({ biases: Float32Array.of(NaN) })],
  ["sampling.controls.biases[0]", controls({ biases: Float32Array.of(Infinity) })],
  ["sampling.controls.numPromptTokens[0]", controls({ numPromptTokens: ints(4, 0) })],
  ["sampling.controls.numPromptTokens[1]", controls({ numPromptTokens: ints(0, -1) })],
  ["sampling.controls.dryAllowedLength[0]", controls({ dryAllowedLength: ints(0, 1) })],
  ["sampling.controls.dryRange[1]", controls({ dryRange: ints(0, -1) })],
  ...realNames.map((name): [string, Partial<StepInput>] => [
    `sampling.controls.${name}`,
    controls({ [name]: new Float32Array(1) }),
  ]),
  ...realNames.flatMap((name) =>
    [NaN, Infinity, -1e9].map((value): [string, Partial<StepInput>] => [
      `sampling.controls.${name}[1]`,
      controls({ [name]: validControls[name].with(1, value) }),
    ]),
  ),
];

describe("validateStep", () => {
  it.each([
    ["as it is", {}],
    ["no outputs", makeStep([{ tokenIds: [1], blocks: [1], outputs: [] }], 4)],
    ["slots that are not written", { slotMapping: valid.slotMapping.map(() => -1) }],
    ["copies", { blockCopies: ints(1, 2, 5, 4) }],
    ["controls", controls({})],
    ["targets", sampling({ targets: ints(-1, 99), numLogprobs: ints(-1, 20) })],
    ["a full block table", { seqLens: ints(8, 8) }],
    [
      "extreme sampling",
      sampling({
        temperature: Float32Array.of(0, 1e6),
        topP: Float32Array.of(1e-29, 1),
        minP: Float32Array.of(0, 1),
      }),
    ],
  ] satisfies [string, Partial<StepInput>][])("accepts %s", (_, change) => {
    expect(errorOf(change)).toBeUndefined();
  });

  const mistakes: [string, Partial<StepInput>][] = [
    ["tokenIds", { tokenIds: [1, 2, 3, 4, 5, 6] as never }],
    ["tokenIds", { tokenIds: new Int32Array() }],
    ["tokenIds", { tokenIds: new Int32Array(9) }],
    ["tokenIds[2]", { tokenIds: ints(1, 2, 100, 4, 5, 6) }],
    ["tokenIds[0]", { tokenIds: ints(-1, 2, 3, 4, 5, 6) }],
    ["positions", { positions: new Int32Array(5) }],
    ["positions[5]", { positions: ints(0, 1, 2, 3, 4, -1) }],
    ["slotMapping", { slotMapping: new Int32Array(7) }],
    ["slotMapping[1]", { slotMapping: ints(4, 24, 6, 7, 8, 9) }],
    ["slotMapping[0]", { slotMapping: ints(-2, 5, 6, 7, 8, 9) }],
    ["queryStartLoc", { queryStartLoc: ints(0, 6) }],
    ["queryStartLoc[0]", { queryStartLoc: ints(1, 5, 6) }],
    ["queryStartLoc[1]", { queryStartLoc: ints(0, 0, 6) }],
    ["queryStartLoc[2]", { queryStartLoc: ints(0, 5, 4) }],
    ["queryStartLoc[1]", { queryStartLoc: ints(0, 7, 6) }],
    ["queryStartLoc", { queryStartLoc: ints(0, 4, 5) }],
    ["seqLens", { seqLens: new Int32Array() }],
    ["seqLens", { seqLens: ints(1, 1, 1), queryStartLoc: ints(0, 1, 2, 6) }],
    ["seqLens[0]", { seqLens: ints(4, 7) }],
    ["seqLens[1]", { seqLens: ints(5, 9) }],
    ["seqLens[1]", { seqLens: ints(5, 0) }],
    ["maxBlocks", { maxBlocks: 0 }],
    ["maxBlocks", { maxBlocks: 1.5 }],
    ["maxBlocks", { maxBlocks: 2 ** 30 }],
    ["blockTable", { blockTable: ints(1, 2, 5) }],
    ["blockTable[3]", { blockTable: ints(1, 2, 5, 6) }],
    ["blockTable[0]", { blockTable: ints(-1, 2, 5, 3) }],
    ["blockCopies", { blockCopies: ints(1, 2, 3) }],
    ["blockCopies[1]", { blockCopies: ints(1, 6) }],
    ["outputRows", { outputRows: ints(0, 1, 2, 3) }],
    ["outputRows[1]", { outputRows: ints(0, 6) }],
    ["outputRows[0]", { outputRows: ints(-1, 5) }],
    ["sampling.temperature", sampling({ temperature: new Float32Array(1) })],
    ["sampling.temperature[1]", sampling({ temperature: Float32Array.of(1, NaN) })],
    ["sampling.temperature[0]", sampling({ temperature: Float32Array.of(-1, 1) })],
    ["sampling.temperature[0]", sampling({ temperature: Float32Array.of(Infinity, 1) })],
    ["sampling.topK[1]", sampling({ topK: ints(0, -1) })],
    ["sampling.topP[0]", sampling({ topP: Float32Array.of(0, 1) })],
    ["sampling.topP[1]", sampling({ topP: Float32Array.of(1, 1.01) })],
    ["sampling.minP[1]", sampling({ minP: Float32Array.of(0, -0.1) })],
    ["sampling.seed", sampling({ seed: new Uint32Array(3) })],
    ["sampling.position[0]", sampling({ position: ints(-1, 0) })],
    ["sampling.targets", sampling({ targets: ints(1) })],
    ["sampling.targets[1]", sampling({ targets: ints(-1, 100) })],
    ["sampling.targets[0]", sampling({ targets: ints(-2, 1) })],
    ["sampling.numLogprobs", sampling({ numLogprobs: ints(1, 2, 3) })],
    ["sampling.numLogprobs[0]", sampling({ numLogprobs: ints(129, 0) })],
    ["sampling.numLogprobs[1]", sampling({ numLogprobs: ints(0, -2) })],
    ...controlMistakes,
  ];

  it.each(mistakes)("names %s", (parameter, change) => {
    expect(errorOf(change)).toMatchObject({ code: "ERR_ARGUMENT", details: { parameter } });
  });

  it.each(kinds)("$name refuses the same, and goes on", async (kind) => {
    const { maxTokens, maxOutputs, maxRequests, numBlocks, blockSize, vocabSize } = limits;
    const plan = compile(tinyGraph(vocabSize), { maxTokens, maxOutputs, dtype: "f32" });
    const weights = plan.weights.map(({ rows, cols }) => new Float32Array(rows * cols));
    const kv = { numBlocks, blockSize };
    const executor = await kind.create({ plan, weights, kv, maxRequests });
    try {
      for (const [parameter, change] of mistakes) {
        const step = executor.execute({ ...valid, ...change });
        await expect(step, parameter).rejects.toMatchObject({ code: "ERR_ARGUMENT" });
      }
      expect(await executor.execute(valid)).toMatchObject({ finite: Int32Array.of(1, 1) });
    } finally {
      await executor.close();
    }
  });
});

/** Logits straight from an embedding. */
function tinyGraph(vocabSize: number): Graph {
  const graph = createGraph();
  const parts = [{ tensor: "embed", shape: [vocabSize, 2], rowStart: 0, rows: vocabSize }];
  const x = graph.takeRows(graph.embed(graph.table("embed", parts)));
  graph.sample(graph.linear(x, graph.matrix("head", parts)));
  return graph;
}
