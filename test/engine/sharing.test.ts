import { describe, expect, it } from "vitest";
import { checkEnginesAfterEach, testEngine } from "../support/engines.js";
import { FakeExecutor } from "../support/fake-executor.js";
import { FakeTokenizer } from "../support/fake-tokenizer.js";
import { promptOf } from "../support/simulate.js";

checkEnginesAfterEach();

const greedy = { temperature: 0, ignoreEos: true };

describe("equal beginnings of prompts", () => {
  it("are computed once, and reported", async () => {
    const executor = new FakeExecutor();
    const engine = testEngine(executor);
    const first = await engine.generate({ prompt: promptOf(20), maxTokens: 2, ...greedy });
    const second = await engine.generate({ prompt: promptOf(20), maxTokens: 2, ...greedy });
    expect(second.tokenIds).toEqual(executor.expected(promptOf(20), 2));
    expect([first, second].map(({ usage }) => usage.cachedTokens)).toEqual([0, 16]);
    expect(executor.steps.map(({ tokens }) => tokens)).toEqual([20, 1, 4, 1]);
    expect(engine.stats()).toMatchObject({
      cachedBlocks: 6, // each has its own fifth block, of the same tokens
      prefixCache: { queriedTokens: 40, hitTokens: 16 },
    });
  });

  it("are shared while both run", async () => {
    const engine = testEngine(new FakeExecutor());
    const long = engine.generate({ prompt: promptOf(20), maxTokens: 30, ...greedy });
    await long[Symbol.asyncIterator]().next();
    const other = engine.generate({ prompt: promptOf(20), maxTokens: 30, ...greedy });
    await other[Symbol.asyncIterator]().next();
    expect(engine.stats().sharedBlocks).toBe(4);
    await Promise.all([long, other]);
    expect(engine.stats().sharedBlocks).toBe(0);
  });

  it("are not shared across salts, nor where it is switched off, nor after a reset", async () => {
    const cached = async (engine: ReturnType<typeof testEngine>, cacheSalt?: string) => {
      const salt = cacheSalt === undefined ? {} : { cacheSalt };
      const { usage } = await engine.generate({ prompt: promptOf(20), maxTokens: 1, ...salt });
      return usage.cachedTokens;
    };
    const engine = testEngine(new FakeExecutor());
    expect(await cached(engine, "a")).toBe(0);
    expect(await cached(engine, "b")).toBe(0);
    expect(await cached(engine)).toBe(0);
    expect(await cached(engine, "a")).toBe(16);
    engine.resetPrefixCache();
    expect(engine.stats().cachedBlocks).toBe(0);
    expect(await cached(engine, "a")).toBe(0);
    const without = testEngine(new FakeExecutor(), { kvCache: { prefixSharing: false } });
    expect([await cached(without), await cached(without)]).toEqual([0, 0]);
  });
});

describe("a deadline", () => {
  it("ends a request with what it has", async () => {
    const executor = new FakeExecutor({
      onCall: () => new Promise((resolve) => setTimeout(resolve, 4)),
    });
    const engine = testEngine(executor);
    const request = { prompt: promptOf(5), maxTokens: 50, deadlineMs: 60, ...greedy };
    const { finishReason, tokenIds, usage } = await engine.generate(request);
    expect(finishReason).toBe("deadline");
    expect(tokenIds.length).toBeGreaterThan(0);
    expect(tokenIds).toEqual(executor.expected(promptOf(5), tokenIds.length));
    expect(usage.totalMs).toBeGreaterThan(55);
    expect(usage.totalMs).toBeLessThan(1000);
  });

  it("ends a request that waits", async () => {
    const executor = new FakeExecutor({
      onCall: () => new Promise((resolve) => setTimeout(resolve, 4)),
    });
    const engine = testEngine(executor, { scheduler: { maxSequences: 1 } });
    const first = engine.generate({ prompt: promptOf(5), maxTokens: 30, ...greedy });
    const second = engine.generate({ prompt: promptOf(6), deadlineMs: 20, ...greedy });
    expect(await second).toMatchObject({ finishReason: "deadline", tokenIds: [] });
    expect((await first).tokenIds).toHaveLength(30);
  });

  it("ends a request that is still text", async () => {
    const tokenizer = new FakeTokenizer();
    tokenizer.encode = () => new Promise((resolve) => setTimeout(resolve, 80, Int32Array.of(1)));
    const engine = testEngine(new FakeExecutor(), { tokenizer });
    const result = await engine.generate({ prompt: "late", deadlineMs: 10 });
    expect(result).toMatchObject({ finishReason: "deadline", promptTokenIds: [], text: "" });
    await new Promise((resolve) => setTimeout(resolve, 100));
  });

  it("that is not reached changes nothing", async () => {
    const engine = testEngine(new FakeExecutor());
    const request = { prompt: promptOf(5), maxTokens: 3, deadlineMs: 2 ** 31 - 1, ...greedy };
    expect(await engine.generate(request)).toMatchObject({ finishReason: "length" });
  });
});

describe("priority", () => {
  it("decides which request runs first", async () => {
    const engine = testEngine(new FakeExecutor(), { scheduler: { maxSequences: 1 } });
    const order: number[] = [];
    const priorities = [0, 2, -1, 1];
    const all = priorities.map(async (priority, i) => {
      await engine.generate({ prompt: promptOf(5, i), maxTokens: 2, priority, ...greedy });
      order.push(priority);
    });
    await Promise.all(all);
    expect(order).toEqual([-1, 0, 1, 2]);
  });
});

describe("bad values", () => {
  it.each([
    ["priority", [1.5, NaN, Infinity, "1", null, 2 ** 20 + 1, -(2 ** 20) - 1]],
    ["deadlineMs", [0, -1, NaN, Infinity, "1", null, 2 ** 31]],
    ["cacheSalt", ["", "x".repeat(257), 7, null, {}]],
  ])("of %s are refused by name", (name, values) => {
    const engine = testEngine(new FakeExecutor());
    for (const value of values) {
      const request = { prompt: [1], [name]: value as never };
      expect(() => engine.generate(request), String(value)).toThrow(`\`${name}\``);
    }
  });
});
