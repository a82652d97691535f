import { afterAll, describe, expect, it } from "vitest";
import type { Executor } from "../../lib/engine/executor.js";
import { unlessUnsupported } from "../support/devices.js";
import { executorKinds, type ExecutorKind } from "../support/executors.js";
import { goldenNames, loadGolden, type Golden, type GoldenCase } from "../support/golden.js";
import { makeStep } from "../support/step.js";

/** Against Hugging Face transformers in float64; what it keeps in float32 itself is worth about 1e-6. */
const logitsTolerance = 1e-4;
/** Where activations or weights are rounded to bf16. */
const bf16LogitsTolerance = 0.1;
/** Where the two best logits are closer than this, either token is right. */
const marginTolerance = 1e-4;

const blockSize = 4;
/** Blocks that each KV group can have. */
const usableBlocks = 39;

const kinds = await executorKinds({ emulatedGpus: 1 });
const report: string[] = [];
afterAll(() => console.log(report.join("\n")));

describe.each(goldenNames())("%s", (name) => {
  const golden = loadGolden(name);

  it.for(kinds)("teacher-forced logits on $name", async (kind, { skip }) => {
    const model = await golden;
    await unlessUnsupported(kind, skip, async () => {
      const whole = await maxDifference(kind, model, 1000);
      const chunked = await maxDifference(kind, model, 5);
      report.push(
        `${name}, ${kind.name}: ${whole.toExponential(1)} whole, ${chunked.toExponential(1)} in chunks`,
      );
      expect(whole).toBeLessThan(logitsTolerance);
      expect(chunked).toBeLessThan(logitsTolerance);
    });
  });

  it.for(kinds)("greedy tokens on $name", async (kind, { skip }) => {
    const model = await golden;
    await unlessUnsupported(kind, skip, () =>
      withExecutor(kind, model, async (executor) => {
        for (const golden of model.cases) await expectGreedy(executor, golden);
      }),
    );
  });
});

describe("weights in bf16", () => {
  // The checkpoint is bf16 itself, so that only kinds that round activations too give other logits.
  const golden = loadGolden("hf-extra/llama-bf16", "bf16");

  it.for(kinds)("teacher-forced logits on $name", async (kind, { skip }) => {
    const model = await golden;
    await unlessUnsupported(kind, skip, async () => {
      const max = await maxDifference(kind, model, 1000);
      report.push(`bf16, ${kind.name}: ${max.toExponential(1)}`);
      const keepsActivations = [
        "reference",
        "cpu base",
        "cpu avx2",
        "cpu avxvnni",
        "cpu neon",
      ].includes(kind.name);
      expect(max).toBeLessThan(keepsActivations ? logitsTolerance : bf16LogitsTolerance);
    });
  });
});

describe("weights in f16", () => {
  it.for(kinds)(
    "give the bits of f32, or are rounded to bf16, on $name",
    async (kind, { skip }) => {
      const [f16, f32] = await Promise.all([
        loadGolden("hf-extra/llama-f16", "f16"),
        loadGolden("hf-extra/llama-f16"),
      ]);
      const dtypes = f16.plan.weights.map(({ kind, dtype }) => `${kind} ${dtype}`);
      expect(new Set(dtypes)).toEqual(new Set(["matrix f16", "table f16", "vector f32"]));
      await unlessUnsupported(kind, skip, async () => {
        const max = await maxDifference(kind, f16, 5);
        expect(max).toBeLessThan(
          kind.roundsWeights === true ? bf16LogitsTolerance : logitsTolerance,
        );
        if (kind.roundsWeights === true) return;
        expect(await firstLogits(kind, f16)).toEqual(await firstLogits(kind, f32));
      });
    },
  );
});

async function firstLogits(kind: ExecutorKind, model: Golden): Promise<Float32Array> {
  let logits: Float32Array = new Float32Array();
  await withExecutor(kind, model, async (executor) => {
    logits = await executor.logits(step(executor, model.cases[0]!.ids, 0));
  });
  return logits;
}

async function withExecutor(
  kind: ExecutorKind,
  model: Golden,
  use: (executor: Executor) => Promise<void>,
) {
  const { plan, weights, checkpoint } = model;
  const kv = { numBlocks: 1 + plan.kvGroups.length * usableBlocks, blockSize };
  const executor = await kind.create({ plan, weights, checkpoint, kv, maxRequests: 4 });
  try {
    await use(executor);
  } finally {
    await executor.close();
  }
}

/** Largest difference to the golden logits over all cases, run `chunk` tokens at a time. */
async function maxDifference(kind: ExecutorKind, model: Golden, chunk: number): Promise<number> {
  let max = 0;
  await withExecutor(kind, model, async (executor) => {
    for (const { ids, logits } of model.cases) {
      for (let start = 0; start < ids.length; start += chunk) {
        const part = ids.slice(start, start + chunk);
        const actual = await executor.logits(step(executor, part, start));
        const from = start * executor.limits.vocabSize;
        const expected = logits.subarray(from, from + actual.length);
        expect(actual.length).toBe(part.length * executor.limits.vocabSize);
        for (const [i, value] of actual.entries())
          max = Math.max(max, difference(value, expected[i]));
      }
    }
  });
  return max;
}

/** NaN counts as infinitely far. */
function difference(a: number, b = NaN): number {
  const d = Math.abs(a - b);
  return Number.isNaN(d) ? Infinity : d;
}

/** Each next token is the golden one, until the first near-tie that went the other way. */
async function expectGreedy(executor: Executor, golden: GoldenCase): Promise<void> {
  let ids = [...golden.ids];
  let computed = 0;
  for (const expected of golden.greedy.slice(golden.ids.length)) {
    const input = step(executor, ids, computed, [ids.length - 1]);
    const { tokens, finite } = await executor.execute(input);
    expect([...finite]).toEqual([1]);
    if (tokens[0] !== expected) {
      const logits = await executor.logits(input);
      expect(margin(logits, tokens[0], expected), `at ${computed + ids.length}`).toBeLessThan(
        marginTolerance,
      );
      return;
    }
    computed += ids.length;
    ids = [expected];
  }
}

function margin(logits: Float32Array, a = -1, b = -1): number {
  return Math.abs((logits[a] ?? NaN) - (logits[b] ?? NaN));
}

/** `ids` after `numComputedTokens` others, in blocks that are neither neighbours nor in order. */
function step(
  { limits }: Executor,
  ids: readonly number[],
  numComputedTokens: number,
  outputs?: readonly number[],
) {
  const numGroups = limits.kvGroups.length;
  const count = Math.ceil((numComputedTokens + ids.length) / blockSize);
  const blocks = Array.from({ length: count }, (_, i) => 1 + ((i * 7 + 3) % usableBlocks));
  const request = { tokenIds: ids, numComputedTokens, blocks };
  const requests = [outputs === undefined ? request : { ...request, outputs }];
  return makeStep(requests, blockSize, numGroups);
}
