import { describe, expect, it } from "vitest";
import type { Executor } from "../../lib/engine/executor.js";
import { createReferenceExecutor } from "../../lib/reference/executor.js";
import { loadGolden } from "../support/golden.js";
import { makeStep } from "../support/step.js";

const model = await loadGolden("hf-extra/llama-odd");
const kv = { numBlocks: 12, blockSize: 4 };

function create(): Executor {
  const weights = (index: number): Float32Array => model.weights[index] as Float32Array;
  return createReferenceExecutor({ plan: model.plan, weights, kv, maxRequests: 2 });
}

const step = makeStep([{ tokenIds: [3, 4, 5], blocks: [1] }], 4);

describe("createReferenceExecutor", () => {
  it("reports its limits", () => {
    const { maxTokens, maxOutputs, vocabSize, kvGroups } = model.plan;
    const plan = { maxTokens, maxOutputs, vocabSize, kvGroups };
    expect(create().limits).toEqual({ ...plan, maxRequests: 2, ...kv });
  });

  it.each([
    ["maxRequests", { maxRequests: 0 }],
    ["numBlocks", { kv: { numBlocks: 1, blockSize: 4 } }],
    ["blockSize", { kv: { numBlocks: 4, blockSize: 257 } }],
  ])("refuses a bad %s", (parameter, options) => {
    const all = {
      plan: model.plan,
      weights: () => new Float32Array(),
      kv,
      maxRequests: 2,
      ...options,
    };
    expect(() => createReferenceExecutor(all)).toThrow(
      expect.objectContaining({
        code: "ERR_ARGUMENT",
        details: expect.objectContaining({ parameter }),
      }),
    );
  });

  it("draws what its logits say", async () => {
    const executor = create();
    const logits = await executor.logits(step);
    const { tokens, finite } = await executor.execute(step);
    const best = [0, 1, 2].map((row) => {
      const values = logits.subarray(row * 131, (row + 1) * 131);
      return values.indexOf(Math.max(...values));
    });
    expect([...tokens]).toEqual(best);
    expect([...finite]).toEqual([1, 1, 1]);
  });

  it("lets the event loop run while it works", async () => {
    const executor = create();
    let turns = 0;
    const timer = setInterval(() => turns++, 0);
    for (let i = 0; i < 5; i++) await executor.execute(step);
    clearInterval(timer);
    expect(turns).toBeGreaterThan(0);
  });

  it("copies blocks before anything else", async () => {
    const executor = create();
    const next = { tokenIds: [6], numComputedTokens: 3 };
    await executor.execute(step);
    const expected = await executor.logits(makeStep([{ ...next, blocks: [1] }], 4));
    const copied = makeStep([{ ...next, blocks: [5] }], 4);
    const actual = await executor.logits({ ...copied, blockCopies: Int32Array.of(1, 5) });
    expect(actual).toEqual(expected);
  });

  it("reports rows that are not finite", async () => {
    const executor = create(); // its cache is full of NaN
    const { finite, tokens } = await executor.execute(
      makeStep([{ tokenIds: [3], numComputedTokens: 2, blocks: [7] }], 4),
    );
    expect([finite[0], tokens[0]]).toEqual([0, 0]);
  });

  it("refuses a bad step and goes on", async () => {
    const executor = create();
    const bad = { ...step, tokenIds: Int32Array.of(3, 131, 5) };
    await expect(executor.execute(bad)).rejects.toMatchObject({ code: "ERR_ARGUMENT" });
    await expect(executor.logits(bad)).rejects.toMatchObject({ code: "ERR_ARGUMENT" });
    await expect(executor.execute(step)).resolves.toMatchObject({ finite: Int32Array.of(1, 1, 1) });
  });

  it("refuses a second step meanwhile", async () => {
    const executor = create();
    const first = executor.execute(step);
    await expect(executor.execute(step)).rejects.toMatchObject({ code: "ERR_INTERNAL" });
    await expect(first).resolves.toBeDefined();
  });

  it("ends the step under way when closed, and takes no more", async () => {
    const executor = create();
    const first = executor.execute(step);
    let settled = false;
    void first.then(() => (settled = true));
    await executor.close();
    expect(settled).toBe(true);
    await expect(executor.execute(step)).rejects.toMatchObject({ code: "ERR_CLOSED" });
    await expect(executor.close()).resolves.toBeUndefined();
  });
});
