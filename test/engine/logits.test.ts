import { describe, expect, it } from "vitest";
import { checkEnginesAfterEach, testEngine } from "../support/engines.js";
import { FakeExecutor } from "../support/fake-executor.js";
import { promptOf } from "../support/simulate.js";

checkEnginesAfterEach();

/** The most probable token of each row; the fake's logits have one at its next token. */
function argmaxRows(logits: Float32Array, vocabSize: number): number[] {
  return Array.from({ length: logits.length / vocabSize }, (_, row) =>
    logits.subarray(row * vocabSize, (row + 1) * vocabSize).indexOf(1),
  );
}

/** What the fake draws after each prefix of `ids`. */
function expectedRows(executor: FakeExecutor, ids: readonly number[]): number[] {
  return ids.map((_, i) => executor.nextToken(ids.slice(0, i + 1)));
}

describe("logits", () => {
  it.each([1, 3, 4, 16])("of every position, in chunks of at most %s rows", async (maxOutputs) => {
    const executor = new FakeExecutor({ maxOutputs, maxRequests: maxOutputs });
    const ids = promptOf(21);
    const logits = await testEngine(executor).logits(ids);
    expect(logits).toHaveLength(21 * 300);
    expect(argmaxRows(logits, 300)).toEqual(expectedRows(executor, ids));
    expect(executor.calls).toBe(Math.ceil(21 / maxOutputs));
  });

  it("of a full context, which generate could not take", async () => {
    const executor = new FakeExecutor();
    const ids = promptOf(64);
    const logits = await testEngine(executor).logits(Int32Array.from(ids));
    expect(argmaxRows(logits, 300)).toEqual(expectedRows(executor, ids));
  });

  it("run between the steps of requests, which keep their tokens", async () => {
    const executor = new FakeExecutor({ maxOutputs: 4, maxRequests: 4 });
    const engine = testEngine(executor);
    const request = { prompt: promptOf(5), maxTokens: 30, ignoreEos: true, temperature: 0 };
    const generation = engine.generate(request);
    const ids = [promptOf(40, 1), promptOf(30, 2)];
    const all = await Promise.all(ids.map((one) => engine.logits(one)));
    expect(generation.state).toBe("running");
    for (const [i, logits] of all.entries()) {
      expect(argmaxRows(logits, 300)).toEqual(expectedRows(executor, ids[i]!));
    }
    expect((await generation).tokenIds).toEqual(executor.expected(promptOf(5), 30));
    expect(engine.stats().steps).toBe(30);
  });

  it("get their blocks although requests keep coming, and those wait their turn", async () => {
    const executor = new FakeExecutor({ numBlocks: 17 });
    const engine = testEngine(executor);
    const progress = { isDone: false };
    const stream = async (salt: number) => {
      for (let i = 0; !progress.isDone; i++) {
        const request = {
          prompt: promptOf(12, salt + i),
          maxTokens: 8,
          ignoreEos: true,
          temperature: 0,
        };
        expect((await engine.generate(request)).tokenIds).toEqual(
          executor.expected(request.prompt, 8),
        );
      }
    };
    const streams = [1, 100, 200, 300].map((salt) => stream(salt));
    await new Promise((resolve) => setTimeout(resolve, 5));
    const ids = promptOf(60, 7);
    expect(argmaxRows(await engine.logits(ids), 300)).toEqual(expectedRows(executor, ids));
    progress.isDone = true;
    await Promise.all(streams);
  });

  it("finish when they hold the blocks that the only request needs", async () => {
    const executor = new FakeExecutor({ numBlocks: 17, maxOutputs: 2, maxRequests: 2 });
    const engine = testEngine(executor);
    const logits = engine.logits(promptOf(40, 1));
    const request = { prompt: promptOf(20), maxTokens: 40, ignoreEos: true, temperature: 0 };
    expect((await engine.generate(request)).tokenIds).toEqual(
      executor.expected(request.prompt, 40),
    );
    expect(argmaxRows(await logits, 300)).toEqual(expectedRows(executor, promptOf(40, 1)));
  });
});

describe("logits refuse", () => {
  it.each([undefined, null, "abc", 5, {}, new Uint32Array(3)])("%s as ids", async (ids) => {
    const call = testEngine(new FakeExecutor()).logits(ids as never);
    await expect(call).rejects.toMatchObject({
      code: "ERR_ARGUMENT",
      details: { parameter: "ids" },
    });
  });

  it.each([
    [[], "ERR_EMPTY_PROMPT"],
    [Array(65).fill(1), "ERR_CONTEXT_LENGTH"],
    [[1, 300], "ERR_TOKEN_ID"],
    [[1, -1], "ERR_TOKEN_ID"],
    [[1, 0.5], "ERR_TOKEN_ID"],
    [Array(2), "ERR_TOKEN_ID"],
  ])("%s with %s", async (ids, code) => {
    await expect(testEngine(new FakeExecutor()).logits(ids)).rejects.toMatchObject({ code });
  });

  it("what no memory holds, with the bytes", async () => {
    const engine = testEngine(new FakeExecutor({ vocabSize: 2 ** 31 - 1 }));
    await expect(engine.logits(promptOf(64))).rejects.toMatchObject({
      code: "ERR_MEMORY",
      details: { bytes: 64 * (2 ** 31 - 1) * 4 },
    });
  });

  it("bad options", async () => {
    const engine = testEngine(new FakeExecutor());
    await expect(engine.logits([1], null as never)).rejects.toMatchObject({ code: "ERR_ARGUMENT" });
    await expect(engine.logits([1], { signal: 5 as never })).rejects.toMatchObject({
      details: { parameter: "signal" },
    });
  });
});

describe("a signal", () => {
  it("ends logits before, while and after they run", async () => {
    const executor = new FakeExecutor({ maxOutputs: 1, maxRequests: 1 });
    const engine = testEngine(executor);
    const aborted = { code: "ERR_ABORTED", cause: "enough" };
    const early = engine.logits([1], { signal: AbortSignal.abort("enough") });
    await expect(early).rejects.toMatchObject(aborted);
    for (const turns of [0, 1, 2, 5]) {
      const controller = new AbortController();
      const running = engine.logits(promptOf(50), { signal: controller.signal });
      const queued = engine.logits(promptOf(50, 1), { signal: controller.signal });
      for (let i = 0; i < turns; i++) await new Promise((resolve) => setImmediate(resolve));
      controller.abort("enough");
      await expect(running).rejects.toMatchObject(aborted);
      await expect(queued).rejects.toMatchObject(aborted);
    }
    const late = new AbortController();
    const logits = await engine.logits([1, 2], { signal: late.signal });
    late.abort();
    expect(logits).toHaveLength(600);
  });
});
