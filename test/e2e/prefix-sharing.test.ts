import { fileURLToPath } from "node:url";
import { createEngine, type EngineOptions, type GenerateRequest } from "pagoda-llm";
import { describe, expect, it } from "vitest";

const root = fileURLToPath(new URL("../..", import.meta.url));

/** Runs all requests at the same time, in two rounds, so that the second finds what the first has left. */
async function run(options: EngineOptions, requests: readonly GenerateRequest[]) {
  await using engine = await createEngine({ threads: 2, ...options });
  const results = [];
  for (let round = 0; round < 2; round++) {
    results.push(...(await Promise.all(requests.map((request) => engine.generate(request)))));
  }
  const { freeBlocks, totalBlocks, prefixCache, preemptions } = engine.stats();
  expect(freeBlocks).toBe(totalBlocks);
  return { outputs: results.map(({ tokenIds }) => tokenIds), prefixCache, preemptions };
}

/** Beginnings that are shared in part, of many lengths, greedy and sampled. */
function requests(vocabSize: number): GenerateRequest[] {
  return Array.from({ length: 24 }, (_, i) => ({
    prompt: Array.from({ length: 5 + 3 * i }, (_, j) =>
      j < 40 || i % 3 > 0 ? (7 * j + 3) % vocabSize : (11 * j + i) % vocabSize,
    ),
    maxTokens: 12 + (i % 5),
    ignoreEos: true,
    temperature: i % 2,
    seed: i,
    priority: i % 3,
  }));
}

describe.each([
  ["the demo model", "models/demo", 500],
  ["llama", "test/fixtures/hf-tiny/llama", 100],
  ["mistral with a sliding window", "test/fixtures/hf-tiny/mistral-swa", 100],
  ["gemma3 with windows in some layers", "test/fixtures/hf-tiny/gemma3", 100],
  ["deepseek with latents", "test/fixtures/hf-tiny/deepseek-v3", 100],
])("%s", (_, path, vocabSize) => {
  it("gives the same tokens with sharing and without, in any pool, blocks and chunks", async () => {
    const model = root + path;
    const load = requests(vocabSize);
    const without = await run({ model, kvCache: { prefixSharing: false } }, load);
    expect(without.prefixCache).toEqual({ queriedTokens: 0, hitTokens: 0 });
    const roomy = await run({ model }, load);
    expect(roomy.outputs).toEqual(without.outputs);
    expect(roomy.prefixCache.hitTokens).toBeGreaterThan(roomy.prefixCache.queriedTokens / 3);
    const tiny = await run(
      {
        model,
        maxModelLen: 96,
        kvCache: { blockSize: 3, numBlocks: 80 },
        scheduler: { maxBatchTokens: 64, maxChunkTokens: 7 },
      },
      load,
    );
    expect(tiny.outputs).toEqual(without.outputs);
    expect(tiny.preemptions).toBeGreaterThan(0);
  });
});
