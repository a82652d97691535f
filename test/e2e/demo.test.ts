import { fileURLToPath } from "node:url";
import { createEngine, type Engine } from "pagoda-llm";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { fixture, logitError, mixedRequests, streamed, type Reference } from "../support/demo.js";
import { measureLoopDelay } from "../support/loop-delay.js";

const root = fileURLToPath(new URL("../..", import.meta.url));
const model = `${root}models/demo`;

describe.each(["bf16", "f32", "q8", "q4"] as const)("the demo model in %s", (dtype) => {
  let engine: Engine;
  beforeAll(async () => {
    engine = await createEngine({ model, dtype, scheduler: { maxSequences: 32 } });
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

  it("gives 16 concurrent streams the same text as each alone", async () => {
    const requests = mixedRequests(16);
    const alone = [];
    for (const request of requests) alone.push(await streamed(engine, request));
    const together = await Promise.all(requests.map((request) => streamed(engine, request)));
    expect(together).toEqual(alone);
    expect(new Set(alone.map(({ text }) => text)).size).toBeGreaterThan(8);
  });

  it("gives the same text for any block size, chunk size and a pool that forces preemption", async () => {
    const requests = mixedRequests(12);
    const expected = await Promise.all(requests.map((request) => streamed(engine, request)));
    const variants = [
      { kvCache: { blockSize: 1 }, scheduler: { maxChunkTokens: 3 } },
      { kvCache: { blockSize: 7 }, scheduler: { maxBatchTokens: 5 } },
      { kvCache: { blockSize: 8, numBlocks: 20 }, maxModelLen: 128 },
      { kvCache: { blockSize: 64 }, threads: 1 },
    ];
    for (const variant of variants) {
      const other = await createEngine({ model, dtype, ...variant });
      const results = await Promise.all(requests.map((request) => streamed(other, request)));
      expect(results).toEqual(expected);
      if (variant.kvCache.numBlocks === 20) expect(other.stats().preemptions).toBeGreaterThan(0);
      expect(other.stats().freeBlocks).toBe(other.stats().totalBlocks);
      await other.close();
    }
  });

  it("agrees with Hugging Face code on greedy tokens wherever the margin is clear", async () => {
    type Case = { promptTokenIds: number[]; outputTokenIds: number[]; smallestMargin: number };
    const cases = await fixture<Case[]>("demo-model/greedy");
    const clear = cases.filter(
      ({ smallestMargin }) => smallestMargin > (dtype === "f32" ? 1e-3 : 0.5),
    );
    if (dtype === "f32") expect(clear.length).toBeGreaterThan(3);
    for (const { promptTokenIds, outputTokenIds } of clear) {
      const maxTokens = outputTokenIds.length;
      const { tokenIds } = await engine.generate({
        prompt: promptTokenIds,
        maxTokens,
        temperature: 0,
      });
      expect(tokenIds).toEqual(outputTokenIds);
    }
  });

  it("gives logits and log probabilities near those in float64", async () => {
    const references = await fixture<Reference[]>("demo-model/logits");
    const errors = await Promise.all(references.map((each) => logitError(engine, each)));
    const bound = { f32: 0.001, bf16: 0.1, q8: 0.5, q4: 4 }[dtype];
    expect(Math.max(...errors)).toBeLessThan(bound);
  });

  it.each([
    ["adds two-digit numbers that training has not seen", "held-out-sums"],
    ["answers in JSON with values that it copies from the question", "json-answers"],
    ["answers questions", "qa"],
  ])("%s", async (_, name) => {
    type Case = { messages: { role: string; content: string }[]; answer: string };
    const cases = await fixture<Case[]>(`demo-model/${name}`);
    const results = await Promise.all(
      cases.map(async ({ messages }) => {
        const { text } = await engine.chat({ messages, temperature: 0, maxTokens: 64 });
        return text;
      }),
    );
    const right = results.filter((text, i) => text === cases[i]!.answer).length;
    expect(right / cases.length).toBeGreaterThanOrEqual(0.95);
  });

  it("splits text as the official tokenizer does", async () => {
    for (const { text, ids } of await fixture<{ text: string; ids: number[] }[]>(
      "demo-model/tokenizer",
    )) {
      const encoded = await engine.tokenizer!.encode(text);
      expect([text, Array.from(encoded)]).toEqual([text, ids]);
    }
  });

  it("leaves the event loop free while it loads, prefills and decodes", async () => {
    const stop = measureLoopDelay();
    const other = await createEngine({ model, dtype });
    await Promise.all(mixedRequests(8).map((request) => streamed(other, request)));
    await other.logits(Int32Array.from({ length: 600 }, (_, i) => i));
    await other.close();
    const delay = stop();
    // Generous, as the machine may be busy: what is looked for are steps or loading on the loop.
    expect(delay.percentile(95)).toBeLessThan(25);
  });

  it("teacher-forced logits agree with the tokens that are drawn", async () => {
    const { promptTokenIds, tokenIds } = await engine.generate({
      prompt: "Once upon a time",
      maxTokens: 20,
      temperature: 0,
      ignoreEos: true,
    });
    const ids = [...promptTokenIds, ...tokenIds];
    const logits = await engine.logits(ids);
    const vocab = engine.info.model.vocabSize;
    expect(logits.length).toBe(ids.length * vocab);
    for (let t = promptTokenIds.length - 1; t < ids.length - 1; t++) {
      const row = logits.subarray(t * vocab, (t + 1) * vocab);
      expect(row.indexOf(Math.max(...row))).toBe(ids[t + 1]);
    }
  });
});
