import { afterAll, describe, expect, it } from "vitest";
import { peakBlocks } from "../../lib/cache/kv-window.js";
import type { Executor } from "../../lib/engine/executor.js";
import type { GenerateRequest } from "../../lib/engine/types.js";
import { checkEnginesAfterEach, testEngine, type TestEngineOptions } from "../support/engines.js";
import { executorKinds } from "../support/executors.js";
import { goldenMaxTokens, loadGolden } from "../support/golden.js";

checkEnginesAfterEach();

const goldens = [
  "hf-tiny/llama",
  "hf-tiny/mistral-swa",
  "hf-tiny/gemma3",
  "hf-extra/deepseek-v2-groups",
].map((name) => loadGolden(name));
const kinds = await executorKinds();
const models = (await Promise.all(goldens)).flatMap((golden) =>
  kinds.map((kind) => ({ model: golden.name, name: kind.name, golden, kind })),
);
const executors: Executor[] = [];
afterAll(() => Promise.all(executors.map((executor) => executor.close())));

/** The same sequences on small machines: few blocks, small blocks, small chunks, few at a time. */
const machines = [
  { contexts: 40, blockSize: 16, scheduler: {} },
  { contexts: 1.2, blockSize: 3, scheduler: { maxChunkTokens: 5 } },
  { contexts: 1, blockSize: 8, scheduler: { maxBatchTokens: 7 } },
  { contexts: 2.5, blockSize: 1, scheduler: { maxSequences: 2, maxChunkTokens: 40 } },
];
const maxModelLen = 100;

describe.each(models)("$model on $name", ({ golden, kind }) => {
  const { plan, weights, cases, checkpoint } = golden;
  const requests: GenerateRequest[] = Array.from({ length: 16 }, (_, i) => ({
    prompt: cases[i % cases.length]!.ids.slice(0, 1 + ((7 * i) % 24)),
    maxTokens: 4 + (i % 12),
    ignoreEos: true,
    ...(i % 3 === 0 ? { temperature: 0 } : { temperature: 0.9, topP: 0.95, topK: 40, seed: i }),
  }));

  const engineOn = async ({ contexts, blockSize, scheduler }: (typeof machines)[number]) => {
    const { maxChunkTokens = goldenMaxTokens, maxBatchTokens = goldenMaxTokens } = scheduler;
    const maxChunk = Math.min(maxChunkTokens, maxBatchTokens);
    const context = peakBlocks(plan.kvGroups, blockSize, maxModelLen, maxChunk);
    const kv = { numBlocks: 1 + Math.floor(contexts * context), blockSize };
    const executor = await kind.create({ plan, weights, kv, maxRequests: 16, checkpoint });
    executors.push(executor);
    const options: TestEngineOptions = { maxModelLen, eosTokenIds: [], scheduler };
    return testEngine(executor, options);
  };

  it("continues as Hugging Face transformers does", async () => {
    const engine = await engineOn(machines[0]!);
    for (const { ids, greedy } of cases) {
      const maxTokens = greedy.length - ids.length;
      const request = { prompt: ids, maxTokens, temperature: 0, ignoreEos: true };
      const { tokenIds } = await engine.generate(request);
      expect([...ids, ...tokenIds]).toEqual(greedy);
    }
  });

  it("has its logits, bit by bit the same for any chunk and block size", async () => {
    const ids = cases[0]!.ids;
    const first = await (await engineOn(machines[0]!)).logits(ids);
    const expected = cases[0]!.logits;
    expect(first.length).toBe(expected.length);
    const errors = first.map((value, i) => Math.abs(value - expected[i]!));
    expect(errors.reduce((max, error) => Math.max(max, error), 0)).toBeLessThan(1e-4);
    for (const machine of machines.slice(1)) {
      expect(await (await engineOn(machine)).logits(ids)).toEqual(first);
    }
  });

  it("draws the same tokens for 16 requests together as for each alone, on any machine", async () => {
    const roomy = await engineOn(machines[0]!);
    const alone: (readonly number[])[] = [];
    for (const request of requests) alone.push((await roomy.generate(request)).tokenIds);
    let preemptions = 0;
    for (const machine of machines) {
      const engine = await engineOn(machine);
      const results = await Promise.all(requests.map((request) => engine.generate(request)));
      expect(results.map(({ tokenIds }) => tokenIds)).toEqual(alone);
      preemptions += engine.stats().preemptions;
    }
    expect(preemptions).toBeGreaterThan(0);
  });
});
