import { afterAll, describe, expect, it } from "vitest";
import type { Executor } from "../../lib/engine/executor.js";
import type { GenerateRequest } from "../../lib/engine/types.js";
import { checkEnginesAfterEach, testEngine } from "../support/engines.js";
import { executorKinds } from "../support/executors.js";
import { loadGolden } from "../support/golden.js";

checkEnginesAfterEach();

const kinds = (await executorKinds()).filter(({ name }) => name.startsWith("cpu"));
const executors: Executor[] = [];
afterAll(() => Promise.all(executors.map((executor) => executor.close())));

/** Ordinary tokens, the same ones for the same seed. */
function tokensOf(length: number, seed: number): number[] {
  return Array.from({ length }, (_, i) => 40 + ((i * i * 31 + i * 17 + seed * 101) % 400));
}

// Kernels take what is shared together in stretches of 512 tokens: the first two, and for some the third.
const prefix = tokensOf(1040, 1);
const longer = [...prefix, ...tokensOf(520, 2)];
const prompts = [
  prefix,
  [...prefix, ...tokensOf(30, 3)],
  longer,
  [...longer, ...tokensOf(3, 4)],
  [...longer, ...tokensOf(60, 5)],
  [...prefix.slice(0, 700), ...tokensOf(100, 6)],
];

describe.each([
  { model: "llama", dtype: "f32" },
  { model: "llama", dtype: "bf16" },
  { model: "llama", dtype: "int8" },
  { model: "gemma3", dtype: "f32" },
  { model: "deepseek-v3", dtype: "f32" },
  { model: "deepseek-v3", dtype: "int8" },
] as const)("requests of $model over one prefix, $dtype cache", async ({ model, dtype }) => {
  const { plan, weights, checkpoint } = await loadGolden(`hf-tiny/${model}`);
  const engineOn = async (kind: (typeof kinds)[number], prefixSharing: boolean) => {
    const kv = { numBlocks: 1600, blockSize: 16, dtype };
    const executor = await kind.create({ plan, weights, kv, maxRequests: 16, checkpoint });
    executors.push(executor);
    return testEngine(executor, { maxModelLen: 2048, eosTokenIds: [], kvCache: { prefixSharing } });
  };
  const sampled = { temperature: 0.9, logprobs: 2, maxTokens: 12, ignoreEos: true, seed: 7 };

  it.each(kinds)("draw on $name what they draw alone", async (kind) => {
    const alone = await engineOn(kind, false);
    const together = await engineOn(kind, true);
    const expected = [];
    for (const prompt of prompts) expected.push(await alone.generate({ prompt, ...sampled }));
    await together.generate({ prompt: longer, ...sampled, maxTokens: 1 });
    const requests = prompts.map((prompt) => together.generate({ prompt, ...sampled }));
    const results = await Promise.all(requests);
    expect(results.map(({ outputs }) => outputs)).toEqual(expected.map(({ outputs }) => outputs));
    const cached = results.map(({ usage }) => usage.cachedTokens);
    expect(cached).toEqual([1024, 1040, 1552, 1552, 1552, 688]);
  });

  it.each(kinds)("as 8 outputs on $name are those of 8 requests alone", async (kind) => {
    const alone = await engineOn(kind, false);
    const request: GenerateRequest = { ...sampled, prompt: prefix };
    const expected = [];
    for (let i = 0; i < 8; ++i) {
      const { outputs } = await alone.generate({ ...request, seed: 7 + i });
      expected.push(outputs[0]);
    }
    const together = await engineOn(kind, true);
    const { outputs } = await together.generate({ ...request, n: 8 });
    expect(outputs).toEqual(expected);
  });
});
