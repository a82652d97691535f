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
