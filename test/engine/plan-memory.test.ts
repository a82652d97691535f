import { readdirSync } from "node:fs";
import { cp, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createEngine, planMemory, type EngineOptions } from "pagoda-llm";
import { describe, expect, it, onTestFinished } from "vitest";
import { inspectModel } from "../../lib/cli/model-report.js";
import { demoModel } from "../support/demo.js";
import { goldenDirectory } from "../support/golden.js";

const tiny = goldenDirectory("hf-tiny/llama");

/** The code that a call rejects with. */
async function codeOf(call: Promise<unknown>): Promise<unknown> {
  const result = await call.then(
    (value) => value as { close?: () => Promise<void> },
    (error: { code: string }) => error,
  );
  if ("close" in result) await result.close?.();
  return "code" in result ? result.code : "none";
}

describe("planMemory", () => {
  it.each<[string, Omit<EngineOptions, "model">]>([
    ["the defaults", {}],
    ["blocks", { kvCache: { numBlocks: 40, blockSize: 8 } }],
    ["bytes", { kvCache: { memory: 5_000_000 } }],
    ["types", { dtype: "bf16", kvCache: { dtype: "f32", numBlocks: 10 } }],
    ["a short context", { maxModelLen: 100, scheduler: { maxSequences: 3, maxBatchTokens: 64 } }],
  ])("says what createEngine uses, given %s", async (_, options) => {
    const plan = await planMemory({ model: demoModel, ...options });
    await using engine = await createEngine({ model: demoModel, ...options });
    const { info } = engine;
    const { memory, numBlocks, blockSize, dtype } = plan.kvCache;
    expect({ memory, numBlocks, blockSize, dtype }).toEqual(info.kvCache);
    expect(plan.weights).toBe(info.weightMemory);
    expect(plan.maxModelLen).toBe(info.model.maxModelLen);
    expect(plan.kvCache.tokens).toBe(engine.stats().totalBlocks * blockSize);
    expect(plan.total).toBe(plan.weights + plan.workspace + memory);
    expect(plan.fits).toBe(true);
  });

  it("counts tokens and full contexts without the null block", async () => {
    const kvCache = { numBlocks: 1 + 3 * 7, blockSize: 16 };
    const plan = await planMemory({ model: tiny, kvCache, maxModelLen: 100 });
    expect(plan.kvCache).toMatchObject({ tokens: 336, fullContexts: 3 });
    // 2 layers, K and V, 2 heads of 16 floats
    expect(plan.kvCache.bytesPerToken * 16 * 22).toBe(plan.kvCache.memory);
    const one = await planMemory({ model: tiny, kvCache: { numBlocks: 3, blockSize: 16 } });
    expect(one).toMatchObject({ maxModelLen: 32, kvCache: { tokens: 32, fullContexts: 1 } });
  });

  it("counts what layers with a window need at once, and no more", async () => {
    // 6 KV groups of one layer with one head of 16 floats; all but the last one have a window of 16 tokens
    const model = goldenDirectory("hf-tiny/gemma3");
    const kvCache = { numBlocks: 101, blockSize: 4 };
    const scheduler = { maxBatchTokens: 9 };
    const plan = await planMemory({ model, kvCache, scheduler });
    const layer = 2 * 16 * 4;
    expect(plan.kvCache).toMatchObject({ memory: 101 * 4 * layer, bytesPerToken: 6 * layer });
    expect(plan.kvCache.tokens).toBe(16 * 4);
    // At most 24 tokens behind a window, from 7 blocks; 65 blocks are left for the other layer.
    expect(plan).toMatchObject({ maxModelLen: 256, kvCache: { fullContexts: 1 } });
    const smaller = { ...kvCache, numBlocks: 1 + 5 * 7 + 40 };
    const shorter = await planMemory({ model, kvCache: smaller, scheduler });
    expect(shorter).toMatchObject({ maxModelLen: 160, kvCache: { fullContexts: 1 } });
    const all = { model, scheduler: { ...scheduler, maxSequences: 3 }, kvCache: { blockSize: 4 } };
    expect((await planMemory(all)).kvCache).toMatchObject({ numBlocks: 1 + 3 * (64 + 5 * 7) });
    await using engine = await createEngine({ model, kvCache: smaller, scheduler });
    expect(engine.info.model.maxModelLen).toBe(160);
    const prompt = Array.from({ length: 100 }, (_, i) => i);
    const { usage } = await engine.generate({ prompt, maxTokens: 60, ignoreEos: true });
    expect(usage.outputTokens).toBe(60);
    expect(engine.stats()).toMatchObject({ preemptions: 0, freeBlocks: 75 });
    const logits = await engine.logits(prompt);
    expect(logits.length).toBe(100 * engine.info.model.vocabSize);
    const tooFew = planMemory({ model, kvCache: { numBlocks: 6 } });
    await expect(tooFew).rejects.toThrow("needs at least 7 blocks of 2048 bytes, but 6 were given");
  });

  it("agrees with `pagoda inspect`", async () => {
    for (const dtype of ["f32", "bf16"] as const) {
      const plan = await planMemory({ model: demoModel, dtype });
      const report = await inspectModel(demoModel, dtype);
      expect(plan.kvCache.bytesPerToken).toBe(report.kvCache.bytesPerToken);
      expect(plan.workspace).toBe(report.arenaBytes);
      // Packing pads matrices to whole panels, by a few rows.
      expect(plan.weights).toBeGreaterThanOrEqual(report.weights.bytes);
      expect(plan.weights).toBeLessThan(1.05 * report.weights.bytes);
    }
  });

  it("tells that a model does not fit, where createEngine fails", async () => {
    const { available } = await planMemory({ model: tiny });
    expect(available).toBeGreaterThan(0);
    const options = { model: tiny, kvCache: { memory: 4 * available } };
    const plan = await planMemory(options);
    expect(plan.fits).toBe(false);
    expect(plan.total).toBeGreaterThan(2 * plan.available);
    await expect(createEngine(options)).rejects.toMatchObject({
      code: "ERR_MEMORY",
      details: { weights: plan.weights, arena: plan.workspace, kvCache: plan.kvCache.memory },
    });
  });

  it("leaves no thread and no open file behind", async () => {
    const count = (): number =>
      readdirSync("/proc/self/task").length + readdirSync("/proc/self/fd").length;
    await planMemory({ model: demoModel });
    const before = count();
    for (let i = 0; i < 5; i++) await planMemory({ model: demoModel });
    expect(count()).toBe(before);
  });

  it("fails as createEngine does", async () => {
    const broken = await mkdtemp(join(tmpdir(), "pagoda-"));
    onTestFinished(() => rm(broken, { recursive: true }));
    await cp(tiny, broken, { recursive: true });
    await writeFile(join(broken, "config.json"), "{");
    const bad: [string, unknown][] = [
      ["ERR_ARGUMENT", undefined],
      ["ERR_ARGUMENT", { model: 1 }],
      ["ERR_ARGUMENT", { model: tiny, threads: 0 }],
      ["ERR_ARGUMENT", { model: tiny, kvCache: { blockSize: 0 } }],
      ["ERR_ARGUMENT", { model: tiny, maxModelLen: 1e6 }],
      ["ERR_ARGUMENT", { model: tiny, device: "tpu" }],
      ["ERR_MODEL_NOT_FOUND", { model: join(broken, "no") }],
      ["ERR_CONFIG_INVALID", { model: broken }],
      ["ERR_MEMORY", { model: tiny, kvCache: { memory: 1 } }],
      ["ERR_BACKEND_UNAVAILABLE", { model: tiny, device: "cuda:99" }],
      ["ERR_ABORTED", { model: tiny, signal: AbortSignal.abort() }],
    ];
    for (const [code, options] of bad) {
      const plan = await codeOf(planMemory(options as EngineOptions));
      const engine = await codeOf(createEngine(options as EngineOptions));
      expect([plan, engine]).toEqual([code, code]);
    }
  });
});
