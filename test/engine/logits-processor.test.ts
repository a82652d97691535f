import { describe, expect, it } from "vitest";
import { checkEnginesAfterEach, collectUnhandled, testEngine } from "../support/engines.js";
import { FakeExecutor } from "../support/fake-executor.js";

checkEnginesAfterEach();

const request = { prompt: [1, 2, 3], maxTokens: 4, temperature: 0, ignoreEos: true };

describe("a logits processor", () => {
  it("sees all tokens so far and decides what is drawn", async () => {
    const executor = new FakeExecutor();
    const seen: number[][] = [];
    const result = await testEngine(executor).generate({
      ...request,
      logitsProcessor: (tokenIds, logits) => {
        seen.push([...tokenIds]);
        expect(logits.indexOf(1)).toBe(executor.nextToken([...tokenIds]));
        logits[7] = 5;
      },
    });
    expect(result.tokenIds).toEqual([7, 7, 7, 7]);
    expect(seen).toEqual([
      [1, 2, 3],
      [1, 2, 3, 7],
      [1, 2, 3, 7, 7],
      [1, 2, 3, 7, 7, 7],
    ]);
  });

  it("does not touch the requests beside it", async () => {
    const executor = new FakeExecutor();
    const engine = testEngine(executor);
    const logitsProcessor = (_: Int32Array, logits: Float32Array) => logits.fill(9, 7, 8);
    const both = [
      engine.generate({ ...request, logitsProcessor: (t, l) => void logitsProcessor(t, l) }),
      engine.generate({ ...request, prompt: [4, 5] }),
    ];
    const [first, second] = await Promise.all(both);
    expect(first!.tokenIds).toEqual([7, 7, 7, 7]);
    expect(second!.tokenIds).toEqual(executor.expected([4, 5], 4));
  });

  const failing: [string, (tokenIds: Int32Array, logits: Float32Array) => unknown][] = [
    [
      "throws",
      () => {
        throw new RangeError("no");
      },
    ],
    ["is asynchronous", async () => {}],
    ["rejects", () => Promise.reject(new Error("late"))],
    [
      "gives its logits away",
      (_, logits) => void structuredClone(logits, { transfer: [logits.buffer as ArrayBuffer] }),
    ],
  ];
  it.each(failing)("that %s ends its own request only", async (_, processor) => {
    const executor = new FakeExecutor();
    const engine = testEngine(executor);
    const unhandled = await collectUnhandled(async () => {
      const bad = engine.generate({ ...request, logitsProcessor: processor as never });
      const good = engine.generate({ ...request, prompt: [4, 5] });
      await expect(bad).rejects.toMatchObject({
        code: "ERR_ARGUMENT",
        details: { parameter: "logitsProcessor" },
      });
      expect((await good).tokenIds).toEqual(executor.expected([4, 5], 4));
    });
    expect(unhandled).toEqual([]);
  });

  it("may cancel its own request", async () => {
    const engine = testEngine(new FakeExecutor());
    const controller = new AbortController();
    const logitsProcessor = () => controller.abort();
    const generation = engine.generate({ ...request, logitsProcessor, signal: controller.signal });
    await expect(generation).rejects.toMatchObject({ code: "ERR_ABORTED" });
  });
});
