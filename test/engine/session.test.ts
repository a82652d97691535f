import { mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import type { Executor } from "../../lib/engine/executor.js";
import type { SessionOptions } from "../../lib/engine/session-types.js";
import { checkEnginesAfterEach, testEngine, type TestEngineOptions } from "../support/engines.js";
import { executorKinds } from "../support/executors.js";
import { FakeExecutor, type FakeExecutorOptions } from "../support/fake-executor.js";
import { FakeTokenizer } from "../support/fake-tokenizer.js";
import { loadGolden } from "../support/golden.js";

checkEnginesAfterEach();

const directory = mkdtempSync(join(tmpdir(), "pagoda-session-"));
let files = 0;
const newPath = (): string => join(directory, `${files++}.session`);
const kinds = await executorKinds();
const executors: Executor[] = [];
afterAll(async () => {
  rmSync(directory, { recursive: true });
  await Promise.all(executors.map((executor) => executor.close()));
});

const range = (length: number, first = 0): number[] => Array.from({ length }, (_, i) => first + i);

function fakeEngine(fake: FakeExecutorOptions = {}, options: TestEngineOptions = {}) {
  const executor = new FakeExecutor({ numBlocks: 200, maxTokens: 256, ...fake });
  const tokenizer = new FakeTokenizer();
  const engine = testEngine(executor, { tokenizer, maxModelLen: 700, eosTokenIds: [], ...options });
  return { executor, engine };
}

/** The tokens of each step that ran since the last call. */
function stepsOf(executor: FakeExecutor): number[] {
  return executor.steps.splice(0).map(({ tokens }) => tokens);
}

describe("a conversation", () => {
  const request = { maxTokens: 5, temperature: 0 };

  it("answers as a chat with all messages does, and computes only what is new", async () => {
    const { engine, executor } = fakeEngine();
    await using session = engine.session({ system: "Be brief." });
    const first = await session.chat({ message: "Hello", ...request });
    const second = await session.chat({ message: { role: "user", content: "Why?" }, ...request });
    expect(session.messages).toEqual([
      { role: "system", content: "Be brief." },
      { role: "user", content: "Hello" },
      { role: "assistant", content: first.text },
      { role: "user", content: "Why?" },
      { role: "assistant", content: second.text },
    ]);
    const steps = stepsOf(executor);
    const computed = steps[5]!;
    expect(computed).toBe(second.promptTokenIds.length - second.usage.cachedTokens);
    expect(computed).toBeLessThan(second.promptTokenIds.length / 2);
    const { tokenIds } = await engine.chat({ messages: session.messages.slice(0, 4), ...request });
    expect(second.tokenIds).toEqual(tokenIds);
    expect([...session.tokenIds]).toEqual([...second.promptTokenIds, ...second.tokenIds]);
  });

  it("begins with messages, and takes several at once", async () => {
    const { engine } = fakeEngine();
    const messages = [
      { role: "user", content: "a" },
      { role: "assistant", content: "b" },
    ];
    await using session = engine.session({ messages });
    messages[0]!.content = "changed";
    const said = [
      { role: "tool", content: "1" },
      { role: "user", content: "c" },
    ];
    await session.chat({ message: said, ...request });
    expect(session.messages.map(({ content }) => content).slice(0, 4)).toEqual([
      "a",
      "b",
      "1",
      "c",
    ]);
  });

  it("is as it was after a turn that fails or is cancelled", async () => {
    let isFinite = true;
    const { engine } = fakeEngine({ isFinite: () => isFinite });
    await using session = engine.session();
    await session.chat({ message: "Hello", ...request });
    const before = { messages: session.messages, tokenIds: session.tokenIds };
    const cancelled = session.chat({ message: "One", ...request, maxTokens: 500 });
    cancelled.cancel();
    await expect(cancelled).rejects.toMatchObject({ code: "ERR_ABORTED" });
    const signal = AbortSignal.abort();
    const aborted = session.chat({ message: "Two", ...request, signal });
    await expect(aborted).rejects.toMatchObject({ code: "ERR_ABORTED" });
    isFinite = false;
    await expect(session.chat({ message: "Three" })).rejects.toMatchObject({
      code: "ERR_NON_FINITE",
    });
    expect({ messages: session.messages, tokenIds: session.tokenIds }).toEqual(before);
    isFinite = true;
    await session.chat({ message: "Four", ...request });
    expect(session.messages.at(-2)).toEqual({ role: "user", content: "Four" });
  });

  it("has one turn at a time", async () => {
    const { engine } = fakeEngine();
    await using session = engine.session();
    const turn = session.chat({ message: "Hello", ...request });
    const busy = expect.objectContaining({ code: "ERR_SESSION_BUSY" });
    expect(() => session.chat({ message: "Hello" })).toThrow(busy);
    expect(() => session.truncate({ numMessages: 0 })).toThrow(busy);
    await turn;
    session.truncate({ numMessages: 0 });
  });

  it("goes on differently in a fork, which computes only what is its own", async () => {
    const { engine, executor } = fakeEngine();
    await using session = engine.session({ system: "A long text. ".repeat(8) });
    await session.chat({ message: "Hello", ...request });
    stepsOf(executor);
    await using fork = session.fork();
    const [one, other] = await Promise.all([
      session.chat({ message: "Yes", ...request }),
      fork.chat({ message: "No!", ...request }),
    ]);
    const uncached = [one, other].map((r) => r.promptTokenIds.length - r.usage.cachedTokens);
    const computed = stepsOf(executor).reduce((sum, tokens) => sum + tokens, 0);
    expect(computed).toBe(uncached[0]! + uncached[1]! + 2 * 4);
    expect(Math.max(...uncached)).toBeLessThan(40);
    expect(session.messages.at(-2)).toEqual({ role: "user", content: "Yes" });
    expect(fork.messages.at(-2)).toEqual({ role: "user", content: "No!" });
    expect(fork.usage().sharedBlocks).toBeGreaterThan(100 / 4);
  });

  it("forgets what it is told to", async () => {
    const { engine } = fakeEngine();
    await using session = engine.session();
    const first = await session.chat({ message: "Hello", ...request });
    const { tokens } = session.usage();
    await session.chat({ message: "Why?", ...request });
    session.truncate({ numMessages: 3 });
    expect(session.messages.length).toBe(3);
    session.truncate({ numMessages: 2 });
    expect(session.usage().tokens).toBe(tokens);
    await session.chat({ message: "How?", ...request });
    expect(session.messages.map(({ content }) => content).slice(0, 3)).toEqual([
      "Hello",
      first.text,
      "How?",
    ]);
    session.truncate({ numMessages: 0 });
    expect(session.usage()).toMatchObject({ tokens: 0, cachedTokens: 0, blocks: 0, memory: 0 });
  });
});

describe("a text", () => {
  it("grows by prompts and outputs, of tokens or of text", async () => {
    const { engine, executor } = fakeEngine();
    await using session = engine.session();
    const one = await session.generate({ prompt: range(21), maxTokens: 4, temperature: 0 });
    const two = await session.generate({ prompt: [], maxTokens: 4, temperature: 0 });
    const three = await session.generate({ prompt: "ab", maxTokens: 4, temperature: 0 });
    const whole = executor.expected(range(21), 8);
    expect([...one.tokenIds, ...two.tokenIds]).toEqual(whole);
    expect(two.promptTokenIds).toEqual([...range(21), ...one.tokenIds]);
    expect(three.promptTokenIds).toEqual([...range(21), ...whole, 97, 98]);
    // Of 25 tokens 24 are in whole blocks, of 31 28, of which the last one was drawn but not computed.
    expect(stepsOf(executor)).toEqual([21, 1, 1, 1, 1, 1, 1, 1, 3, 1, 1, 1]);
    session.truncate({ numTokens: 21 });
    expect([...session.tokenIds]).toEqual(range(21));
    const again = await session.generate({ prompt: [], maxTokens: 4, temperature: 0 });
    expect(again.tokenIds).toEqual(one.tokenIds);
  });

  it("needs a first prompt, and stays a text", async () => {
    const { engine } = fakeEngine();
    await using session = engine.session();
    const empty = expect.objectContaining({ code: "ERR_EMPTY_PROMPT" });
    expect(() => session.generate({ prompt: [] })).toThrow(empty);
    await session.generate({ prompt: [1], maxTokens: 1 });
    const wrong = expect.objectContaining({ code: "ERR_ARGUMENT" });
    expect(() => session.chat({ message: "x" })).toThrow(wrong);
    expect(() => session.truncate({ numMessages: 0 })).toThrow(wrong);
    expect(() => session.truncate({ numTokens: 3 })).toThrow(wrong);
    const long = expect.objectContaining({ code: "ERR_CONTEXT_LENGTH" });
    expect(() => session.generate({ prompt: range(250).concat(range(250), range(198)) })).toThrow(
      long,
    );
  });
});

describe("sessions under pressure", () => {
  it("give their blocks to requests, the least recently used one first, and compute them again", async () => {
    const { engine, executor } = fakeEngine({ numBlocks: 33 }, { maxModelLen: 128 });
    await using old = engine.session();
    await using young = engine.session();
    await old.generate({ prompt: range(40, 100), maxTokens: 1, temperature: 0 });
    await young.generate({ prompt: range(40, 50), maxTokens: 1, temperature: 0 });
    expect(engine.stats().freeBlocks).toBe(32 - 20);
    await engine.generate({ prompt: range(70), maxTokens: 6 });
    expect(engine.stats().preemptions).toBe(0);
    expect(old.usage()).toMatchObject({ tokens: 41, cachedTokens: 0, blocks: 0 });
    expect(young.usage()).toMatchObject({ tokens: 41, cachedTokens: 40, blocks: 10 });
    await engine.generate({ prompt: range(120), maxTokens: 8 });
    expect(young.usage().blocks).toBe(0);
    const { tokenIds } = await young.generate({ prompt: [], maxTokens: 3, temperature: 0 });
    expect(tokenIds).toEqual(executor.expected(range(40, 50), 4).slice(1));
    expect(young.usage().cachedTokens).toBe(40);
  });

  it("give all of them back when they are closed", async () => {
    const { engine } = fakeEngine();
    const session = engine.session();
    await session.generate({ prompt: range(40), maxTokens: 1 });
    const fork = session.fork();
    const turn = fork.generate({ prompt: [1], maxTokens: 50 });
    await Promise.all([session.close(), fork.close(), fork.close()]);
    await expect(turn).rejects.toMatchObject({ code: "ERR_ABORTED" });
    expect(engine.stats().freeBlocks).toBe(engine.stats().totalBlocks);
    const closed = expect.objectContaining({ code: "ERR_CLOSED" });
    expect(() => session.generate({ prompt: [1] })).toThrow(closed);
    expect(() => session.fork()).toThrow(closed);
    await expect(session.save(newPath())).rejects.toEqual(closed);
  });

  it("of a closed engine are closed", async () => {
    const { engine } = fakeEngine();
    const session = engine.session();
    await engine.close();
    const closed = expect.objectContaining({ code: "ERR_CLOSED" });
    expect(() => session.chat({ message: "x" })).toThrow(closed);
    await expect(session.save(newPath())).rejects.toEqual(closed);
    expect(() => engine.session()).toThrow(closed);
    await expect(engine.restoreSession(newPath())).rejects.toEqual(closed);
  });
});

describe("a saved session", () => {
  const request = { prompt: [7, 8], maxTokens: 6, temperature: 0 };

  it("goes on in another engine without computing what it held", async () => {
    const { engine } = fakeEngine();
    await using session = engine.session({ cacheSalt: "tenant" });
    await session.generate({ prompt: range(41), maxTokens: 4, temperature: 0 });
    const path = newPath();
    await session.save(path);
    expect(statSync(path).mode & 0o777).toBe(0o600);
    const expected = await session.generate(request);

    const second = fakeEngine();
    await using restored = await second.engine.restoreSession(path);
    expect(restored.usage()).toMatchObject({ tokens: 45, cachedTokens: 44, blocks: 11 });
    const { tokenIds, promptTokenIds } = await restored.generate(request);
    expect({ tokenIds, promptTokenIds }).toEqual({
      tokenIds: expected.tokenIds,
      promptTokenIds: expected.promptTokenIds,
    });
    expect(stepsOf(second.executor)[0]).toBe(3);
    await using again = await second.engine.restoreSession(path);
    expect(again.usage().sharedBlocks).toBe(11);
    const unsalted = await second.engine.generate({ prompt: range(41), maxTokens: 1 });
    expect(unsalted.usage.cachedTokens).toBe(0);
  });

  it("keeps its messages", async () => {
    const { engine } = fakeEngine();
    await using session = engine.session({ system: "s" });
    const messages: SessionOptions["messages"] = session.messages;
    const path = newPath();
    await session.save(path);
    await session.chat({ message: "Hello", maxTokens: 3 });
    await using early = await engine.restoreSession(path);
    expect(early.messages).toEqual(messages);
    await session.save(path);
    await using late = await engine.restoreSession(path);
    expect(late.messages).toEqual(session.messages);
    expect(late.tokenIds).toEqual(session.tokenIds);
    late.truncate({ numMessages: 1 });
    await late.chat({ message: "Bye", maxTokens: 3 });
  });

  it("is computed again where it does not fit", async () => {
    const { engine } = fakeEngine();
    await using session = engine.session();
    await session.generate({ prompt: range(41), maxTokens: 4, temperature: 0 });
    const path = newPath();
    await session.save(path);
    const expected = await session.generate(request);
    for (const other of [{ blockSize: 8 }, { numBlocks: 14 }]) {
      const { engine: small } = fakeEngine(other, { maxModelLen: 52 });
      const blocker = small.session();
      await blocker.generate({ prompt: range(20, 200), maxTokens: 1 });
      await using restored = await small.restoreSession(path);
      expect(restored.usage()).toMatchObject({ tokens: 45, cachedTokens: 0 });
      expect((await restored.generate({ ...request, maxTokens: 5 })).tokenIds).toEqual(
        expected.tokenIds.slice(0, 5),
      );
      await blocker.close();
    }
  });

  it("is refused by another model, or where it is damaged or gone", async () => {
    const { engine } = fakeEngine();
    await using session = engine.session();
    await session.generate({ prompt: range(41), maxTokens: 4 });
    const path = newPath();
    await session.save(path);
    const other = fakeEngine({}, { fingerprint: "e".repeat(64) });
    await expect(other.engine.restoreSession(path)).rejects.toMatchObject({
      code: "ERR_SESSION_MISMATCH",
    });
    await expect(engine.restoreSession(newPath())).rejects.toMatchObject({
      code: "ERR_SESSION_NOT_FOUND",
    });
    const small = fakeEngine({ vocabSize: 40 });
    await expect(small.engine.restoreSession(path)).rejects.toMatchObject({ code: "ERR_TOKEN_ID" });
    const signal = AbortSignal.abort();
    await expect(engine.restoreSession(path, { signal })).rejects.toMatchObject({
      code: "ERR_ABORTED",
    });
    await expect(session.save(path, { signal })).rejects.toMatchObject({ code: "ERR_ABORTED" });
    await expect(session.save("")).rejects.toMatchObject({ code: "ERR_ARGUMENT" });
    expect(engine.stats().freeBlocks).toBe(engine.stats().totalBlocks - session.usage().blocks);
  });

  it("keeps its blocks while it is being written, whatever runs meanwhile", async () => {
    const { engine, executor } = fakeEngine({ numBlocks: 33 }, { maxModelLen: 128 });
    await using session = engine.session();
    await session.generate({ prompt: range(41), maxTokens: 4, temperature: 0 });
    const path = newPath();
    const saving = session.save(path);
    session.truncate({ numTokens: 0 });
    await Promise.all([
      saving,
      ...range(4).map((i) => engine.generate({ prompt: range(60, 40 + i), maxTokens: 20 })),
    ]);
    engine.resetPrefixCache();
    await using restored = await engine.restoreSession(path);
    const { tokenIds } = await restored.generate({ prompt: [], maxTokens: 4, temperature: 0 });
    expect(tokenIds).toEqual(executor.expected(range(41), 8).slice(4));
  });
});

const models = [
  "hf-tiny/qwen3",
  "hf-tiny/mistral-swa",
  "hf-tiny/gemma3",
  "hf-tiny/deepseek-v3-yarn",
];
const modelKinds = models.flatMap((model) =>
  kinds.map((kind) => ({ model, name: kind.name, kind })),
);

describe.each(modelKinds)("a session of $model on $name", ({ model, kind }) => {
  it("is bit by bit the same after fork, truncate, save and restore", async () => {
    const { plan, weights, checkpoint, cases } = await loadGolden(model);
    const engineOf = async (blocksPerGroup: number) => {
      const kv = { numBlocks: 1 + plan.kvGroups.length * blocksPerGroup, blockSize: 4 };
      const executor = await kind.create({ plan, weights, kv, maxRequests: 8, checkpoint });
      executors.push(executor);
      return testEngine(executor, { maxModelLen: 120, eosTokenIds: [] });
    };
    const { ids, greedy } = cases[0]!;
    const engine = await engineOf(100);
    const request = { prompt: [], maxTokens: 4, temperature: 0, logprobs: 3 };
    await using session = engine.session();
    const first = await session.generate({ ...request, prompt: ids });
    const path = newPath();
    await session.save(path);
    const second = await session.generate(request);
    expect([...ids, ...first.tokenIds, ...second.tokenIds]).toEqual(
      greedy.slice(0, ids.length + 8),
    );
    await using fork = session.fork();
    session.truncate({ numTokens: ids.length + 4 });
    fork.truncate({ numTokens: ids.length + 4 });
    const { logprobs } = second;
    expect((await fork.generate(request)).logprobs).toEqual(logprobs);
    expect((await session.generate(request)).logprobs).toEqual(logprobs);
    for (const numBlocks of [100, 25]) {
      const other = await engineOf(numBlocks);
      await using restored = await other.restoreSession(path);
      expect(restored.usage().cachedTokens).toBeGreaterThanOrEqual(ids.length);
      expect((await restored.generate(request)).logprobs).toEqual(logprobs);
    }
  });
});
