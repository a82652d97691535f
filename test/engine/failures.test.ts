import { describe, expect, it } from "vitest";
import { PagodaError } from "../../lib/errors.js";
import { checkEnginesAfterEach, collectUnhandled, testEngine } from "../support/engines.js";
import { FakeExecutor } from "../support/fake-executor.js";
import { FakeTokenizer } from "../support/fake-tokenizer.js";
import { promptOf } from "../support/simulate.js";

checkEnginesAfterEach();

const request = { maxTokens: 12, ignoreEos: true, temperature: 0 };
const macrotask = () => new Promise<void>((resolve) => setImmediate(resolve));

/** An executor whose call number `k` fails with `error`. */
function failing(k: number, error: unknown): FakeExecutor {
  return new FakeExecutor({
    maxTokens: 8,
    onCall: async (call) => {
      await macrotask();
      if (call === k) throw error;
    },
  });
}

describe("an executor that fails in step", () => {
  it.each([0, 1, 2, 3, 5, 8, 11])(
    "%s ends all requests, with that error, and the engine",
    async (k) => {
      const executor = failing(k, new Error("device lost"));
      const engine = testEngine(executor, { tokenizer: new FakeTokenizer() });
      const running = [0, 1, 2].map((i) =>
        engine.generate({ prompt: promptOf(3 + 4 * i, i), ...request }),
      );
      const text = engine.generate({ prompt: "text", ...request });
      const logits = engine.logits(promptOf(60));
      const failed = {
        code: "ERR_BACKEND_FAILED",
        message: expect.stringContaining("device lost"),
      };
      for (const generation of [...running, text])
        await expect(generation).rejects.toMatchObject(failed);
      await expect(logits).rejects.toMatchObject(failed);
      expect(() => engine.generate({ prompt: [1] })).toThrow(expect.objectContaining(failed));
      expect(() => engine.chat({ messages: [{ role: "user" }] })).toThrow(
        expect.objectContaining(failed),
      );
      await expect(engine.logits([1])).rejects.toMatchObject(failed);
      await macrotask();
      expect(executor.calls).toBe(k + 1);
      expect(engine.stats()).toMatchObject({ freeBlocks: 64, running: 0, waiting: 0 });
      await engine.close();
      expect(executor.isClosed).toBe(true);
      expect(() => engine.generate({ prompt: [1] })).toThrow(
        expect.objectContaining({ code: "ERR_CLOSED" }),
      );
    },
  );

  it("keeps the code of a PagodaError", async () => {
    const engine = testEngine(failing(1, new PagodaError("ERR_MEMORY", "full")));
    await expect(engine.generate({ prompt: [1], ...request })).rejects.toMatchObject({
      code: "ERR_MEMORY",
    });
  });

  it("whatever it throws", async () => {
    const ownFault = new PagodaError("ERR_ARGUMENT", "a bad step");
    for (const thrown of [undefined, null, "text", 5, ownFault]) {
      const engine = testEngine(failing(0, thrown));
      const generation = engine.generate({ prompt: [1], ...request });
      await expect(generation).rejects.toMatchObject({ code: "ERR_BACKEND_FAILED" });
    }
  });

  it("does not fail a second time through requests that were cancelled", async () => {
    const unhandled = await collectUnhandled(async () => {
      const engine = testEngine(failing(3, new Error("device lost")));
      for await (const _ of engine.generate({ prompt: [1], ...request })) break;
      const other = engine.generate({ prompt: [2], ...request });
      await expect(other).rejects.toMatchObject({ code: "ERR_BACKEND_FAILED" });
    });
    expect(unhandled).toEqual([]);
  });
});

describe("logits that are not finite", () => {
  it("fail their request alone", async () => {
    const isFinite = (context: readonly number[]) => !(context[0] === 1 && context.length === 8);
    const executor = new FakeExecutor({ isFinite });
    const engine = testEngine(executor);
    const healthy = [2, 3].map((id) => engine.generate({ prompt: [id, id], ...request }));
    const sick = engine.generate({ prompt: [1, 1], ...request });
    await expect(sick).rejects.toMatchObject({
      code: "ERR_NON_FINITE",
      details: { outputTokens: 6 },
    });
    for (const [i, generation] of healthy.entries()) {
      expect((await generation).tokenIds).toEqual(executor.expected([i + 2, i + 2], 12));
    }
    expect(
      (await engine.generate({ prompt: [1], ...request, maxTokens: 3 })).tokenIds,
    ).toHaveLength(3);
  });
});

describe("close", () => {
  it("ends requests in every state, waits for the step, and frees everything", async () => {
    const unhandled = await collectUnhandled(async () => {
      const executor = new FakeExecutor({
        maxRequests: 2,
        onCall: async () => void (await macrotask()),
      });
      const tokenizer = new FakeTokenizer();
      const engine = testEngine(executor, { tokenizer });
      const generations = [1, 2, 3].map((id) => engine.generate({ prompt: [id], ...request }));
      const text = engine.generate({ prompt: "text", ...request });
      const nobodyLooks = engine.generate({ prompt: [4], ...request });
      const logits = engine.logits(promptOf(60)).catch((error) => error);
      await generations[0]![Symbol.asyncIterator]().next();
      const closing = engine.close();
      expect(engine.close()).toBe(closing);
      for (const generation of [...generations, text]) {
        expect(generation.state).toBe("done");
        await expect(generation).rejects.toMatchObject({ code: "ERR_CLOSED" });
      }
      expect(nobodyLooks.state).toBe("done");
      await closing;
      expect([executor.isClosed, tokenizer.isClosed]).toEqual([true, true]);
      expect(engine.stats().freeBlocks).toBe(64);
      expect(await logits).toMatchObject({ code: "ERR_CLOSED" });
    });
    expect(unhandled).toEqual([]);
  });

  it("makes every later call an error", async () => {
    const engine = testEngine(new FakeExecutor(), { tokenizer: new FakeTokenizer() });
    await engine.close();
    const closed = expect.objectContaining({ code: "ERR_CLOSED" });
    expect(() => engine.generate({ prompt: [1] })).toThrow(closed);
    expect(() => engine.generate({ prompt: "a" })).toThrow(closed);
    expect(() => engine.chat({ messages: [{ role: "user" }] })).toThrow(closed);
    await expect(engine.logits([1])).rejects.toEqual(closed);
    await engine.close();
    await engine[Symbol.asyncDispose]();
  });

  it("in mid-generation ends the loop of a reader with the error", async () => {
    const engine = testEngine(new FakeExecutor());
    const loop = async () => {
      for await (const _ of engine.generate({ prompt: [1], ...request })) void engine.close();
    };
    await expect(loop()).rejects.toMatchObject({ code: "ERR_CLOSED" });
  });

  it("before the first step runs nothing", async () => {
    const executor = new FakeExecutor();
    const engine = testEngine(executor);
    const generation = engine.generate({ prompt: [1], ...request });
    await engine.close();
    await expect(generation).rejects.toMatchObject({ code: "ERR_CLOSED" });
    expect(executor.calls).toBe(0);
  });

  it("does not wait for a tokenizer that never answers", async () => {
    const tokenizer = new FakeTokenizer({ onEncode: () => new Promise(() => {}) });
    const engine = testEngine(new FakeExecutor(), { tokenizer });
    const generation = engine.generate({ prompt: "a" });
    await macrotask();
    await engine.close();
    await expect(generation).rejects.toMatchObject({ code: "ERR_CLOSED" });
  });

  it("frees the executor even if the tokenizer fails to close", async () => {
    const executor = new FakeExecutor();
    const tokenizer = new FakeTokenizer();
    tokenizer.close = () => Promise.reject(new Error("stuck"));
    const engine = testEngine(executor, { tokenizer });
    await expect(engine.close()).rejects.toThrow("stuck");
    expect(executor.isClosed).toBe(true);
  });
});
