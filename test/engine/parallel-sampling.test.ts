import { afterAll, describe, expect, it } from "vitest";
import type { Executor } from "../../lib/engine/executor.js";
import type { Delta, GenerateRequest } from "../../lib/engine/types.js";
import { checkEnginesAfterEach, testEngine } from "../support/engines.js";
import { executorKinds } from "../support/executors.js";
import { FakeExecutor } from "../support/fake-executor.js";
import { fakeEos, FakeTokenizer } from "../support/fake-tokenizer.js";
import { loadGolden } from "../support/golden.js";

checkEnginesAfterEach();

const golden = await loadGolden("hf-tiny/llama");
const { plan, weights, checkpoint, cases } = golden;
const kinds = await executorKinds();
const executors: Executor[] = [];
afterAll(() => Promise.all(executors.map((executor) => executor.close())));

const machines = [
  { numBlocks: 257, blockSize: 16, scheduler: {}, kvCache: {} },
  { numBlocks: 60, blockSize: 3, scheduler: { maxChunkTokens: 5 }, kvCache: {} },
  { numBlocks: 14, blockSize: 8, scheduler: { maxBatchTokens: 7 }, kvCache: {} },
  { numBlocks: 257, blockSize: 4, scheduler: { maxSequences: 2 }, kvCache: {} },
  { numBlocks: 64, blockSize: 4, scheduler: {}, kvCache: { prefixSharing: false } },
];
const range = (length: number): number[] => Array.from({ length }, (_, i) => i);

async function collect(deltas: AsyncIterable<Delta>): Promise<Delta[]> {
  const collected: Delta[] = [];
  for await (const delta of deltas) collected.push(delta);
  return collected;
}

describe.each(kinds)("n outputs of one prompt on $name", (kind) => {
  const engineOn = async (machine: (typeof machines)[number]) => {
    const { numBlocks, blockSize, scheduler, kvCache } = machine;
    const kv = { numBlocks, blockSize };
    const executor = await kind.create({ plan, weights, kv, maxRequests: 16, checkpoint });
    executors.push(executor);
    return testEngine(executor, { maxModelLen: 100, eosTokenIds: [], scheduler, kvCache });
  };

  it("are those of n requests with consecutive seeds, on any machine", async () => {
    const request: GenerateRequest = {
      prompt: cases[0]!.ids.slice(0, 40),
      maxTokens: 12,
      temperature: 0.9,
      logprobs: 2,
      presencePenalty: 0.5,
      stopTokenIds: range(40),
    };
    const seed = 2 ** 32 - 2; // the second word of the seed changes, too
    const single = await engineOn(machines[0]!);
    const alone = await Promise.all(
      range(5).map((i) => single.generate({ ...request, seed: seed + i })),
    );
    expect(new Set(alone.map(({ tokenIds }) => tokenIds.join())).size).toBe(5);
    for (const machine of machines) {
      const engine = await engineOn(machine);
      const { outputs } = await engine.generate({ ...request, n: 5, seed });
      expect(outputs).toEqual(alone.map(({ outputs: [output] }) => output));
    }
  });
});

describe("n outputs", () => {
  const prompt = range(30).map((i) => 40 + i);

  it("compute the prompt once, and share its blocks", async () => {
    const fake = new FakeExecutor({ numBlocks: 200 });
    const used: number[] = [];
    const engine = testEngine(fake, { eosTokenIds: [] });
    engine.on("step", ({ freeBlocks }) => used.push(199 - freeBlocks));
    await engine.generate({ prompt, n: 8, maxTokens: 6, temperature: 1 });
    const tokens = fake.steps.map((step) => step.tokens);
    // The prompt; 7 forks compute its last token again beside the first one's second token; then each a token a step.
    expect(tokens).toEqual([30, 8, 8, 8, 8, 8, 7]);
    // 7 full blocks of 4 are shared; 2 tokens of the prompt and 6 more take 2 blocks each.
    expect(Math.max(...used)).toBe(7 + 8 * 2);
  });

  it("are told by index as they come, and whole at the end", async () => {
    const engine = testEngine(new FakeExecutor(), { tokenizer: new FakeTokenizer() });
    const generation = engine.generate({ prompt: "abc", n: 3, maxTokens: 9, seed: 1 });
    const deltas = await collect(generation);
    const { outputs, text, tokenIds, finishReason, usage } = await generation;
    expect(outputs[0]).toEqual({ text, tokenIds, finishReason });
    for (const [index, output] of outputs.entries()) {
      const own = deltas.filter((delta) => delta.index === index);
      expect(own.map((delta) => delta.text).join("")).toBe(output.text);
      expect(own.flatMap((delta) => delta.tokenIds)).toEqual(output.tokenIds);
      expect(own.map((delta) => delta.finishReason)).toEqual([
        ...own.slice(1).map(() => undefined),
        output.finishReason,
      ]);
    }
    expect(deltas.filter((delta) => delta.usage !== undefined)).toEqual([deltas.at(-1)]);
    expect(deltas.at(-1)!.usage).toEqual(usage);
    expect(usage.outputTokens).toBe(outputs.reduce((sum, each) => sum + each.tokenIds.length, 0));
    expect(usage.promptTokens).toBe(4);
    expect(engine.stats()).toMatchObject({ promptTokens: 4, outputTokens: usage.outputTokens });
  });

  it("end each by itself: at once, by a stop text, or by length", async () => {
    const draw = new Map([
      [0, [fakeEos]],
      [1, [97, 98, 99, 100]],
      [2, [97, 97, 97, 97]],
    ]);
    const nextToken = (context: readonly number[], { seed }: { seed: readonly [number, number] }) =>
      draw.get(seed[0])![context.length - 4]!;
    const tokenizer = new FakeTokenizer();
    const engine = testEngine(new FakeExecutor({ nextToken }), { tokenizer });
    const request = { prompt: "xyz", n: 3, seed: 0, maxTokens: 4, stop: "bc" };
    const { outputs } = await engine.generate(request);
    expect(outputs.map(({ text, finishReason }) => [text, finishReason])).toEqual([
      ["", "stop"],
      ["a", "stop"],
      ["aaaa", "length"],
    ]);
  });

  it("of bestOf candidates are those with the highest log-probability a token", async () => {
    const kind = kinds.at(-1)!;
    const kv = { numBlocks: 257, blockSize: 16 };
    const executor = await kind.create({ plan, weights, kv, maxRequests: 16, checkpoint });
    executors.push(executor);
    const engine = testEngine(executor, { maxModelLen: 100, eosTokenIds: [] });
    const request = { prompt: cases[1]!.ids, maxTokens: 8, seed: 5, stopTokenIds: range(99) };
    const all = await engine.generate({ ...request, n: 6, logprobs: 0 });
    const mean = (logprobs: readonly { logprob: number }[] = []): number =>
      logprobs.reduce((sum, { logprob }) => sum + logprob, 0) / logprobs.length;
    const scores = all.outputs.map(({ logprobs }) => mean(logprobs));
    const order = range(6).sort((a, b) => scores[b]! - scores[a]!);
    const generation = engine.generate({ ...request, n: 2, bestOf: 6 });
    const deltas = await collect(generation);
    const { outputs, usage } = await generation;
    for (const [i, output] of outputs.entries()) {
      const expected = all.outputs[order[i]!]!;
      expect(output.tokenIds).toEqual(expected.tokenIds);
      expect(output.score).toBeCloseTo(scores[order[i]!]!, 12);
      expect(output).not.toHaveProperty("logprobs");
    }
    expect(deltas.map(({ index, tokenIds }) => [index, tokenIds])).toEqual(
      outputs.map(({ tokenIds }, index) => [index, tokenIds]),
    );
    expect(usage.outputTokens).toBe(all.usage.outputTokens);
  });

  it("end together when the deadline is over, with what each has", async () => {
    const slow = new FakeExecutor({
      onCall: () => new Promise((resolve) => setTimeout(resolve, 15)),
    });
    const engine = testEngine(slow, { eosTokenIds: [] });
    const request = { prompt, n: 3, maxTokens: 30, deadlineMs: 100 };
    const { outputs, finishReason } = await engine.generate(request);
    expect(finishReason).toBe("deadline");
    expect(outputs.map((output) => output.finishReason)).toEqual(Array(3).fill("deadline"));
    expect(outputs.every(({ tokenIds }) => tokenIds.length > 0)).toBe(true);
  });

  it("give all their blocks back when they are cancelled, at any moment", async () => {
    for (const after of range(8)) {
      const engine = testEngine(new FakeExecutor({ maxTokens: 8 }), { eosTokenIds: [] });
      const generation = engine.generate({ prompt, n: 5, maxTokens: 30 });
      for (let turn = 0; turn < after; turn++) await new Promise((done) => setImmediate(done));
      generation.cancel();
      await expect(generation).rejects.toMatchObject({ code: "ERR_ABORTED" });
    }
  });

  it("fail together when the logits of one are not finite", async () => {
    const isFinite = (context: readonly number[]): boolean => context.length < 33;
    const engine = testEngine(new FakeExecutor({ isFinite }), { eosTokenIds: [] });
    await expect(engine.generate({ prompt, n: 4, maxTokens: 30 })).rejects.toMatchObject({
      code: "ERR_NON_FINITE",
    });
    const first = testEngine(new FakeExecutor({ isFinite: () => false }), { eosTokenIds: [] });
    await expect(first.generate({ prompt, n: 4, maxTokens: 30 })).rejects.toMatchObject({
      code: "ERR_NON_FINITE",
    });
  });

  it.each([
    ["n", { n: 0 }],
    ["n", { n: 129 }],
    ["n", { n: 1.5 }],
    ["n", { n: null }],
    ["bestOf", { n: 3, bestOf: 2 }],
    ["bestOf", { bestOf: 129 }],
    ["beam", { beam: 3 }],
    ["beam.width", { beam: {} }],
    ["beam.width", { beam: { width: 0 } }],
    ["beam.width", { beam: { width: 65 } }],
    ["beam.width", { n: 3, beam: { width: 2 } }],
    ["beam.lengthPenalty", { beam: { width: 2, lengthPenalty: Number.NaN } }],
    ["beam.earlyStopping", { beam: { width: 2, earlyStopping: "always" } }],
    ["temperature", { beam: { width: 2 }, temperature: 0 }],
    ["bestOf", { beam: { width: 2 }, bestOf: 2 }],
    ["stop", { beam: { width: 2 }, stop: "x" }],
  ])("refuse a wrong %s", (parameter, fields) => {
    const engine = testEngine(new FakeExecutor());
    const request = { prompt: [1], ...fields } as unknown as GenerateRequest;
    expect(() => engine.generate(request)).toThrow(
      expect.objectContaining({
        code: "ERR_ARGUMENT",
        details: expect.objectContaining({ parameter }),
      }),
    );
  });
});
