import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createEngine, planMemory, type Engine, type EngineOptions } from "pagoda-llm";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import {
  demoMlaModel as model,
  fixture,
  logitError,
  mixedRequests,
  streamed,
  type Reference,
} from "../support/demo.js";

interface Greedy {
  readonly promptTokenIds: number[];
  readonly outputTokenIds: number[];
  readonly outputText: string;
  /** Of the chosen token's logit over the second, wherever it is smallest. */
  readonly smallestMargin: number;
}

let scratch = "";
beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), "pagoda-demo-mla-"));
});
afterAll(() => rm(scratch, { recursive: true }));

describe.each([
  ["f32", { margin: 0.001, logit: 0.001 }],
  ["bf16", { margin: 0.5, logit: 0.5 }],
  ["q8", { margin: 0.5, logit: 1 }],
  ["q4", { margin: 1, logit: 5 }],
] as const)("the demo model with latent attention and experts in %s", (dtype, bounds) => {
  let engine: Engine;
  beforeAll(async () => {
    engine = await createEngine({ model, dtype, kvCache: { dtype: "f32" } });
  });
  afterEach(() => {
    const { freeBlocks, totalBlocks, running, waiting } = engine.stats();
    expect({ freeBlocks, running, waiting }).toEqual({
      freeBlocks: totalBlocks,
      running: 0,
      waiting: 0,
    });
  });
  afterAll(() => engine.close());

  it("writes what Hugging Face's code writes wherever the margin is clear", async () => {
    const cases = await fixture<Greedy[]>("demo-mla-model/greedy");
    const clear = cases.filter(({ smallestMargin }) => smallestMargin > bounds.margin);
    expect(clear.length).toBeGreaterThan(1);
    for (const { promptTokenIds: prompt, outputTokenIds, outputText } of clear) {
      const maxTokens = outputTokenIds.length;
      const { tokenIds, text } = await engine.generate({ prompt, maxTokens, temperature: 0 });
      expect(tokenIds).toEqual(outputTokenIds);
      expect(text).toBe(outputText);
    }
  });

  it("gives logits and log probabilities near those in float64", async () => {
    const references = await fixture<Reference[]>("demo-mla-model/logits");
    const errors = await Promise.all(references.map((each) => logitError(engine, each)));
    expect(Math.max(...errors)).toBeLessThan(bounds.logit);
  });

  it("gives requests the same text alone, together and in chunks, whatever the blocks", async () => {
    const requests = mixedRequests(12);
    const alone = [];
    for (const request of requests) alone.push(await streamed(engine, request));
    expect(new Set(alone.map(({ text }) => text)).size).toBeGreaterThan(6);
    const variants: Omit<EngineOptions, "model">[] = [
      {},
      { kvCache: { blockSize: 1 }, scheduler: { maxChunkTokens: 3 } },
      { kvCache: { blockSize: 7 }, scheduler: { maxBatchTokens: 5 } },
      { kvCache: { blockSize: 8, numBlocks: 20 }, maxModelLen: 128 },
      { kvCache: { blockSize: 64 }, threads: 1 },
    ];
    for (const variant of variants) {
      const kvCache = { ...variant.kvCache, dtype: "f32" } as const;
      await using other = await createEngine({ model, dtype, ...variant, kvCache });
      const together = await Promise.all(requests.map((request) => streamed(other, request)));
      expect(together).toEqual(alone);
      if (kvCache.numBlocks === 20) expect(other.stats().preemptions).toBeGreaterThan(0);
    }
  });

  it("goes on alike after a prompt at once, a session's turns and a session's file", async () => {
    const [story] = await fixture<Greedy[]>("demo-mla-model/greedy");
    const ids = [...story!.promptTokenIds, ...story!.outputTokenIds];
    const known = 50;
    const last = { maxTokens: 8, temperature: 0, ignoreEos: true, logprobs: 2 };
    const expected = await engine.generate({ prompt: ids, ...last });
    await using session = engine.session();
    for (let end = 10; end <= known; end += 10) {
      await session.generate({ prompt: ids.slice(end - 10, end), maxTokens: 3 });
      session.truncate({ numTokens: end });
    }
    const file = join(scratch, `${dtype}.session`);
    await session.save(file);
    await using restored = await engine.restoreSession(file);
    for (const each of [session, restored]) {
      const { logprobs, usage } = await each.generate({ prompt: ids.slice(known), ...last });
      expect(logprobs).toEqual(expected.logprobs);
      expect(usage.cachedTokens).toBeGreaterThan(16);
    }
  });

  it.each([
    ["adds two-digit numbers that training has not seen", "held-out-sums", 0.95],
    ["mostly answers in JSON with values that it copies from the question", "json-answers", 0.65],
    ["mostly answers questions", "qa", 0.6],
  ])("%s", async (_, name, least) => {
    type Case = { messages: { role: string; content: string }[]; answer: string };
    const cases = await fixture<Case[]>(`demo-model/${name}`);
    const results = await Promise.all(
      cases.map(({ messages }) => engine.chat({ messages, temperature: 0, maxTokens: 64 })),
    );
    const right = results.filter(({ text }, i) => text === cases[i]!.answer).length;
    expect(right / cases.length).toBeGreaterThanOrEqual(least);
  });
});

it("keeps a latent and a rope key of each token and layer", async () => {
  const { kvCache } = await planMemory({ model });
  expect(kvCache).toMatchObject({ dtype: "bf16", bytesPerToken: 6 * (64 + 16) * 2 });
});
