import { describe, expect, it } from "vitest";
import type { Delta, GenerateRequest } from "../../lib/engine/types.js";
import { checkEnginesAfterEach, testEngine } from "../support/engines.js";
import { FakeExecutor } from "../support/fake-executor.js";
import { fakeBos, fakeEos, FakeTokenizer } from "../support/fake-tokenizer.js";
import { promptOf } from "../support/simulate.js";

checkEnginesAfterEach();

/** An executor that writes `text` behind any prompt of `promptLength` tokens, then the end-of-sequence token. */
function writer(text: string, promptLength: number): FakeExecutor {
  const bytes = [...Buffer.from(text), fakeEos];
  return new FakeExecutor({ nextToken: ({ length }) => bytes[length - promptLength] ?? fakeEos });
}

async function collect(deltas: AsyncIterable<Delta>): Promise<Delta[]> {
  const all: Delta[] = [];
  for await (const delta of deltas) all.push(delta);
  return all;
}

describe("a generation", () => {
  it("yields deltas whose tokens together are the result's", async () => {
    const executor = new FakeExecutor();
    const prompt = promptOf(7);
    const generation = testEngine(executor).generate({
      prompt,
      maxTokens: 9,
      ignoreEos: true,
      temperature: 0,
    });
    const deltas = await collect(generation);
    const result = await generation;
    expect(result.tokenIds).toEqual(executor.expected(prompt, 9));
    expect(result.promptTokenIds).toEqual(prompt);
    expect(result.finishReason).toBe("length");
    expect(deltas.flatMap(({ tokenIds }) => tokenIds)).toEqual(result.tokenIds);
    expect(deltas.filter(({ finishReason }) => finishReason)).toHaveLength(1);
    expect(deltas.at(-1)).toMatchObject({ finishReason: "length", usage: result.usage });
    expect(result.usage).toMatchObject({ promptTokens: 7, outputTokens: 9 });
  });

  it("measures its times in order", async () => {
    const engine = testEngine(new FakeExecutor());
    const { usage } = await engine.generate({ prompt: [1, 2], maxTokens: 5, ignoreEos: true });
    expect(usage.queueMs).toBeGreaterThanOrEqual(0);
    expect(usage.ttftMs).toBeGreaterThan(usage.queueMs);
    expect(usage.totalMs).toBeGreaterThan(usage.ttftMs);
  });

  it("goes from queued over running to done", async () => {
    const engine = testEngine(new FakeExecutor(), { scheduler: { maxSequences: 1 } });
    const first = engine.generate({ prompt: [1], maxTokens: 4, ignoreEos: true });
    const second = engine.generate({ prompt: [2], maxTokens: 1 });
    expect([first.state, second.state]).toEqual(["queued", "queued"]);
    expect(first.id).not.toBe(second.id);
    await first[Symbol.asyncIterator]().next();
    expect([first.state, second.state]).toEqual(["running", "queued"]);
    await second;
    expect([first.state, second.state]).toEqual(["done", "done"]);
  });

  it("turns bytes into whole characters", async () => {
    const text = "héllo 😀 wörld";
    const engine = testEngine(writer(text, 2), { tokenizer: new FakeTokenizer() });
    const generation = engine.generate({ prompt: "a" });
    const deltas = await collect(generation);
    for (const { text } of deltas) expect(text).not.toMatch(/\ufffd|\p{Surrogate}/u);
    expect(deltas.map(({ text }) => text).join("")).toBe(text);
    const result = await generation;
    expect(result.text).toBe(text);
    expect(result.finishReason).toBe("stop");
    expect(result.tokenIds.at(-1)).toBe(fakeEos);
    expect(result.promptTokenIds).toEqual([fakeBos, 97]);
  });

  it("shows half a character that the end cuts off as a replacement character", async () => {
    const engine = testEngine(writer("a😀", 1), { tokenizer: new FakeTokenizer() });
    const { text } = await engine.generate({ prompt: [1], maxTokens: 3 });
    expect(text).toMatch(/^a\ufffd+$/u);
  });

  it("has no text without a tokenizer", async () => {
    const engine = testEngine(writer("abc", 1));
    const { text, tokenIds } = await engine.generate({ prompt: [1] });
    expect(text).toBe("");
    expect(tokenIds).toEqual([97, 98, 99, fakeEos]);
  });
});

describe("a generation ends", () => {
  it("at a stop token, which is the last id but not in the text", async () => {
    const engine = testEngine(writer("abcdef", 1), { tokenizer: new FakeTokenizer() });
    const result = await engine.generate({ prompt: [1], stopTokenIds: [100, 99] });
    expect(result).toMatchObject({ text: "ab", tokenIds: [97, 98, 99], finishReason: "stop" });
  });

  it("not at the end-of-sequence token if it is ignored", async () => {
    const engine = testEngine(writer("ab", 1), { tokenizer: new FakeTokenizer() });
    const request = { prompt: [1], ignoreEos: true, maxTokens: 5 };
    const result = await engine.generate(request);
    expect(result.tokenIds).toEqual([97, 98, fakeEos, fakeEos, fakeEos]);
    expect(result).toMatchObject({ text: "ab", finishReason: "length" });
  });

  it("at an ignored end-of-sequence token that is also a stop token", async () => {
    const engine = testEngine(writer("ab", 1));
    const request = { prompt: [1], ignoreEos: true, stopTokenIds: [fakeEos] };
    expect((await engine.generate(request)).finishReason).toBe("stop");
  });

  it("where the context is full, by default and if maxTokens asks for more", async () => {
    const engine = testEngine(new FakeExecutor(), { maxModelLen: 20 });
    for (const maxTokens of [undefined, 17, Number.MAX_SAFE_INTEGER]) {
      const request = { prompt: promptOf(4), ignoreEos: true, ...(maxTokens && { maxTokens }) };
      const { tokenIds, finishReason } = await engine.generate(request);
      expect([tokenIds.length, finishReason]).toEqual([16, "length"]);
    }
  });
});

describe("many requests", () => {
  const requests: GenerateRequest[] = Array.from({ length: 16 }, (_, i) => ({
    prompt: promptOf(1 + ((i * 5) % 30), i),
    maxTokens: 1 + ((i * 3) % 20),
    ignoreEos: true,
    ...(i % 2 === 0 ? { temperature: 0 } : { temperature: 0.8, seed: i * 2 ** 33 + i }),
  }));

  async function alone(): Promise<number[][]> {
    const results: number[][] = [];
    for (const request of requests) {
      const engine = testEngine(new FakeExecutor());
      results.push([...(await engine.generate(request)).tokenIds]);
      await engine.close();
    }
    return results;
  }

  it("have the same tokens together as alone", async () => {
    const engine = testEngine(new FakeExecutor());
    const results = await Promise.all(requests.map((request) => engine.generate(request)));
    expect(results.map(({ tokenIds }) => tokenIds)).toEqual(await alone());
    const outputTokens = results.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0);
    expect(engine.stats()).toMatchObject({ preemptions: 0, outputTokens });
  });

  it("have the same tokens when blocks are short and prompts are chunked", async () => {
    const executor = new FakeExecutor({ numBlocks: 17, maxTokens: 12 });
    const engine = testEngine(executor, { scheduler: { maxChunkTokens: 5 } });
    const results = await Promise.all(requests.map((request) => engine.generate(request)));
    expect(engine.stats().preemptions).toBeGreaterThan(0);
    expect(results.map(({ tokenIds }) => tokenIds)).toEqual(await alone());
  });

  it("made in one tick share the first step", async () => {
    const executor = new FakeExecutor();
    const engine = testEngine(executor);
    await Promise.all(
      [1, 2, 3].map((id) => engine.generate({ prompt: [id], maxTokens: 2, ignoreEos: true })),
    );
    expect(executor.steps.map(({ requests }) => requests)).toEqual([3, 3]);
  });

  it("joined later run in the same steps", async () => {
    const executor = new FakeExecutor();
    const engine = testEngine(executor);
    const first = engine.generate({ prompt: [1], maxTokens: 20, ignoreEos: true });
    await first[Symbol.asyncIterator]().next();
    await engine.generate({ prompt: [2], maxTokens: 3, ignoreEos: true });
    await first;
    expect(executor.steps).toHaveLength(20);
  });

  it("are refused when too many wait, and accepted again later", async () => {
    const scheduler = { maxSequences: 2, maxQueue: 1 };
    const engine = testEngine(new FakeExecutor(), { scheduler });
    const request = { prompt: [1], maxTokens: 3, ignoreEos: true };
    const accepted = [1, 2, 3].map(() => engine.generate(request));
    expect(() => engine.generate(request)).toThrow(
      expect.objectContaining({ code: "ERR_QUEUE_FULL", retryable: true }),
    );
    await Promise.all(accepted);
    await engine.generate(request);
  });
});

describe("chat", () => {
  it("renders the messages, with the answer's beginning", async () => {
    const engine = testEngine(writer("hi", 20), { tokenizer: new FakeTokenizer() });
    const { text, promptTokenIds } = await engine.chat({
      messages: [{ role: "user", content: "yo" }],
    });
    expect(Buffer.from(promptTokenIds).toString()).toBe("user: yo\nassistant: ");
    expect(text).toBe("hi");
  });

  it("fails with the template's error", async () => {
    const tokenizer = new FakeTokenizer({ hasChatTemplate: false });
    const engine = testEngine(new FakeExecutor(), { tokenizer });
    const generation = engine.chat({ messages: [{ role: "user", content: "yo" }] });
    await expect(generation).rejects.toMatchObject({ code: "ERR_CHAT_TEMPLATE" });
  });
});

describe("statistics", () => {
  it("count what happened", async () => {
    const engine = testEngine(new FakeExecutor());
    const generations = [1, 2].map((id) =>
      engine.generate({ prompt: [id, id], maxTokens: 4, ignoreEos: true }),
    );
    expect(engine.stats()).toMatchObject({
      waiting: 2,
      running: 0,
      freeBlocks: 64,
      totalBlocks: 64,
    });
    await generations[0]![Symbol.asyncIterator]().next();
    expect(engine.stats()).toMatchObject({ waiting: 0, running: 2, freeBlocks: 62 });
    await Promise.all(generations);
    expect(engine.stats()).toMatchObject({
      waiting: 0,
      running: 0,
      totalBlocks: 64,
      freeBlocks: 64,
      cachedBlocks: 2,
      sharedBlocks: 0,
      prefixCache: { queriedTokens: 4, hitTokens: 0 },
      steps: 4,
      preemptions: 0,
      promptTokens: 4,
      outputTokens: 8,
    });
  });
});
