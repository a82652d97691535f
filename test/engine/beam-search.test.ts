import { readFileSync } from "node:fs";
import { afterAll, describe, expect, it } from "vitest";
import type { Executor } from "../../lib/engine/executor.js";
import type { GeneratedOutput, GenerateRequest } from "../../lib/engine/types.js";
import { checkEnginesAfterEach, testEngine } from "../support/engines.js";
import { executorKinds } from "../support/executors.js";
import { goldenDirectory, loadGolden } from "../support/golden.js";

checkEnginesAfterEach();

const kinds = await executorKinds();
const executors: Executor[] = [];
afterAll(() => Promise.all(executors.map((executor) => executor.close())));

/** What Hugging Face transformers 5.18 found, the model in float64. */
interface BeamGolden {
  readonly model: string;
  /** Index of the model's golden case. */
  readonly case: number;
  readonly width: number;
  readonly lengthPenalty: number;
  readonly earlyStopping: boolean | "never";
  readonly maxTokens: number;
  readonly stop: readonly number[];
  readonly minTokens: number;
  readonly n: number;
  readonly outputs: readonly (readonly number[])[];
  readonly scores: readonly number[] | null;
}

const fixture = new URL("../fixtures/beam-search/golden.json", import.meta.url);
const goldens = JSON.parse(readFileSync(fixture, "utf8")) as BeamGolden[];

/** Roomy; many small blocks; too few blocks for all beams; a budget below the width; few beams at a time. */
const machines = [
  { numBlocks: 257, blockSize: 16, scheduler: {} },
  { numBlocks: 300, blockSize: 1, scheduler: { maxChunkTokens: 5 } },
  { numBlocks: 12, blockSize: 8, scheduler: {} },
  { numBlocks: 60, blockSize: 4, scheduler: { maxBatchTokens: 2 } },
  { numBlocks: 60, blockSize: 3, scheduler: { maxSequences: 2 } },
];

async function engineOn(model: string, kind = kinds.at(-1)!, machine = machines[0]!) {
  const { plan, weights, checkpoint, cases } = await loadGolden(`hf-tiny/${model}`);
  const { numBlocks, blockSize, scheduler } = machine;
  const kv = { numBlocks, blockSize };
  const executor = await kind.create({ plan, weights, kv, maxRequests: 16, checkpoint });
  executors.push(executor);
  const options = { maxModelLen: 100, eosTokenIds: [], scheduler };
  return { engine: testEngine(executor, options), cases };
}

function requestOf(golden: BeamGolden, prompt: readonly number[]): GenerateRequest {
  const { n, width, lengthPenalty, earlyStopping, maxTokens, minTokens, stop } = golden;
  const beam = { width, lengthPenalty, earlyStopping };
  return { prompt, n, beam, maxTokens, minTokens, stopTokenIds: stop };
}

/** Outputs whose scores are almost equal may change places. */
function expectOutputs(
  received: readonly GeneratedOutput[],
  outputs: readonly (readonly number[])[],
  scores: readonly number[] | null,
): void {
  if (scores !== null) {
    expect(received.length).toBe(scores.length);
    for (const [i, { score }] of received.entries()) expect(score).toBeCloseTo(scores[i]!, 4);
  }
  const isTie = (i: number): boolean =>
    [i - 1, i + 1].some((j) => Math.abs((scores?.[j] ?? Infinity) - (scores?.[i] ?? 0)) < 1e-5);
  for (const [i, { tokenIds }] of received.entries()) {
    if (isTie(i)) expect(outputs).toContainEqual(tokenIds);
    else expect(tokenIds).toEqual(outputs[i]);
  }
}

describe("beam search on a model", () => {
  it.each(["llama", "llama3rope", "qwen2", "qwen3", "phi3", "gemma3", "mistral-swa"])(
    "of %s finds what Hugging Face's generate finds",
    async (model) => {
      const { engine } = await engineOn(model);
      const file = `${goldenDirectory(`hf-tiny/${model}`)}/golden.json`;
      const { cases } = JSON.parse(readFileSync(file, "utf8")) as {
        cases: { ids: number[]; beam3: number[][]; beam3_scores: number[] }[];
      };
      for (const { ids, beam3, beam3_scores } of cases) {
        const outputs = beam3.map((sequence) => sequence.slice(ids.length));
        const maxTokens = outputs[0]!.length;
        const result = await engine.generate({ prompt: ids, n: 3, beam: { width: 3 }, maxTokens });
        expectOutputs(result.outputs, outputs, beam3_scores);
      }
    },
  );

  it.each(["llama", "qwen3", "gemma3", "mistral-swa"])(
    "of %s does so with stop tokens, length penalties and each kind of early stopping",
    async (model) => {
      const { engine, cases } = await engineOn(model);
      const own = goldens.filter((golden) => golden.model === model);
      expect(own.length).toBe(16);
      const results = await Promise.all(
        own.map((golden) => engine.generate(requestOf(golden, cases[golden.case]!.ids))),
      );
      for (const [i, { outputs, scores }] of own.entries()) {
        expectOutputs(results[i]!.outputs, outputs, scores);
      }
    },
  );

  it.each(kinds)("is bit by bit the same on small machines of $name", async (kind) => {
    const own = goldens.filter(({ model }) => model === "llama").slice(0, 8);
    const run = async (machine: (typeof machines)[number]) => {
      const { engine, cases } = await engineOn("llama", kind, machine);
      const results = own.map((golden) =>
        engine.generate({ ...requestOf(golden, cases[golden.case]!.ids), logprobs: 2 }),
      );
      const outputs = (await Promise.all(results)).map((result) => result.outputs);
      return { outputs, preemptions: engine.stats().preemptions };
    };
    const expected = await run(machines[0]!);
    let preemptions = 0;
    for (const machine of machines.slice(1)) {
      const received = await run(machine);
      expect(received.outputs).toEqual(expected.outputs);
      preemptions += received.preemptions;
    }
    expect(preemptions).toBeGreaterThan(0);
  });
});

describe("a beam search", () => {
  const engineOf = async () => (await engineOn("llama")).engine;
  const prompt = [5, 6, 7];

  it("of width 1 is greedy", async () => {
    const engine = await engineOf();
    const greedy = await engine.generate({ prompt, maxTokens: 10, temperature: 0, logprobs: 3 });
    const beam = await engine.generate({ prompt, maxTokens: 10, beam: { width: 1 }, logprobs: 3 });
    expect(beam.tokenIds).toEqual(greedy.tokenIds);
    expect(beam.logprobs).toEqual(greedy.logprobs);
  });

  it("scores each output by its log-probabilities, best first", async () => {
    const engine = await engineOf();
    const beam = { width: 6, lengthPenalty: 0.7 };
    const { outputs, usage } = await engine.generate({
      prompt,
      n: 6,
      maxTokens: 7,
      beam,
      logprobs: 1,
      stopTokenIds: Array.from({ length: 60 }, (_, id) => id),
    });
    for (const { tokenIds, logprobs, score } of outputs) {
      expect(logprobs!.map(({ id }) => id)).toEqual(tokenIds);
      const sum = logprobs!.reduce((total, { logprob }) => total + logprob, 0);
      expect(score).toBeCloseTo(sum / tokenIds.length ** 0.7, 10);
      const { logprobs: own } = await engine.generate({
        prompt: [...prompt, ...tokenIds.slice(0, -1)],
        maxTokens: 1,
        temperature: 0,
        logprobs: 1,
      });
      expect(logprobs!.at(-1)!.top).toEqual(own![0]!.top);
    }
    const scores = outputs.map(({ score }) => score!);
    expect(scores).toEqual([...scores].sort((a, b) => b - a));
    expect(new Set(outputs.map(({ tokenIds }) => tokenIds.join())).size).toBe(6);
    expect(usage.outputTokens).toBe(outputs.reduce((sum, each) => sum + each.tokenIds.length, 0));
  });

  it("obeys a logits processor", async () => {
    const engine = await engineOf();
    const isAllowed = (id: number): boolean => id % 5 === 0;
    const logitsProcessor = (_: Int32Array, logits: Float32Array): void => {
      for (const id of logits.keys()) if (!isAllowed(id)) logits[id] = -Infinity;
    };
    const request = { prompt, n: 4, maxTokens: 6, beam: { width: 4 }, logitsProcessor };
    const { outputs } = await engine.generate(request);
    expect(outputs.length).toBe(4);
    expect(outputs.every(({ tokenIds }) => tokenIds.every(isAllowed))).toBe(true);
    const none = {
      ...request,
      logitsProcessor: (_: Int32Array, all: Float32Array) => void all.fill(-Infinity),
    };
    await expect(engine.generate(none)).rejects.toMatchObject({ code: "ERR_NON_FINITE" });
  });

  it("finds fewer outputs where there are not more", async () => {
    const engine = await engineOf();
    const logitsProcessor = (_: Int32Array, logits: Float32Array): void => {
      for (const id of logits.keys()) if (id > 1) logits[id] = -Infinity;
    };
    const request = { prompt, n: 8, maxTokens: 2, beam: { width: 8 }, logitsProcessor };
    const { outputs } = await engine.generate(request);
    expect(outputs.map(({ tokenIds }) => tokenIds).sort()).toEqual([
      [0, 0],
      [0, 1],
      [1, 0],
      [1, 1],
    ]);
  });

  it("ends with its best beams when the deadline is over", async () => {
    const engine = await engineOf();
    const request = { prompt, n: 2, beam: { width: 4 }, maxTokens: 90, deadlineMs: 1 };
    const early = await engine.generate(request);
    expect(early.finishReason).toBe("deadline");
    const results = await Promise.all(
      [4, 8, 12].map((deadlineMs) => engine.generate({ ...request, deadlineMs })),
    );
    const whole = await engine.generate({ ...request, deadlineMs: 60_000 });
    for (const { outputs } of [...results, whole]) {
      expect(outputs.length).toBeGreaterThan(0);
      for (const { finishReason } of outputs)
        expect(["deadline", "length"]).toContain(finishReason);
    }
    expect(whole.finishReason).toBe("length");
  });

  it("gives all blocks back when it is cancelled, at any moment", async () => {
    for (let after = 0; after < 12; after++) {
      const engine = await engineOf();
      const generation = engine.generate({ prompt, beam: { width: 4 }, maxTokens: 60 });
      for (let turn = 0; turn < after; turn++) await new Promise((done) => setImmediate(done));
      generation.cancel();
      await expect(generation).rejects.toMatchObject({ code: "ERR_ABORTED" });
    }
  });

  it("lets logits be computed though its beams hold blocks and wait for each other", async () => {
    const { engine } = await engineOn("llama", kinds.at(-1)!, machines[2]!);
    const searches = [1, 2, 3].map((id) =>
      engine.generate({ prompt: [id, ...prompt], beam: { width: 6 }, maxTokens: 40 }),
    );
    const ids = Array.from({ length: 80 }, (_, i) => i);
    const logits = await Promise.all([1, 2].map(() => engine.logits(ids)));
    expect(logits[0]).toEqual(logits[1]);
    const results = await Promise.all(searches);
    expect(results.map(({ tokenIds }) => tokenIds.length)).toEqual([40, 40, 40]);
  });
});
