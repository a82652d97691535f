import { describe, expect, it } from "vitest";
import { checkEnginesAfterEach, testEngine } from "../support/engines.js";
import { FakeExecutor } from "../support/fake-executor.js";
import { promptOf } from "../support/simulate.js";
import { measureLoopDelay } from "../support/loop-delay.js";

checkEnginesAfterEach();

describe("the event loop", () => {
  it("turns in every step, even if the executor never leaves it free", async () => {
    const executor = new FakeExecutor({ onCall: () => undefined });
    const engine = testEngine(executor);
    let turns = 0;
    let isDone = false;
    const count = () => {
      turns++;
      if (!isDone) setImmediate(count);
    };
    setImmediate(count);
    await engine.generate({ prompt: [1], maxTokens: 40, ignoreEos: true });
    isDone = true;
    expect(turns).toBeGreaterThanOrEqual(39);
  });

  it("is never held for long by batches of many long sequences", async () => {
    // 64 sequences of up to 1,000 tokens, 4,096 tokens a step; the token does not depend on the context, which is cheap.
    const limits = {
      numBlocks: 4200,
      blockSize: 16,
      maxTokens: 4096,
      maxRequests: 64,
      maxOutputs: 64,
    };
    const step = {
      tokens: Int32Array.of(...Array(64).fill(7)),
      finite: new Int32Array(64).fill(1),
    };
    const executor = new FakeExecutor(limits);
    executor.compute = () => step;
    const engine = testEngine(executor, { maxModelLen: 1024 });
    const request = { maxTokens: 100, ignoreEos: true };
    const prompts = Array.from({ length: 256 }, (_, i) => promptOf(900, i));
    const generations = prompts.map((prompt) => engine.generate({ prompt, ...request }));
    await new Promise((resolve) => setTimeout(resolve, 5));
    const stop = measureLoopDelay();
    const results = await Promise.all(generations);
    const delay = stop();
    expect(results.every(({ tokenIds }) => tokenIds.length === 100)).toBe(true);
    // Typically 1 ms and 25 ms (garbage collection): the bounds leave room for a busy machine.
    expect(delay.percentile(90)).toBeLessThan(25);
    expect(delay.max).toBeLessThan(250);
  });
});
