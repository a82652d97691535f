import { cp, mkdtemp, rm, writeFile } from "node:fs/promises";
import { readdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { createEngine, type EngineOptions, type LoadProgress } from "pagoda-llm";
import { demoModel } from "../support/demo.js";
import { goldenDirectory, loadGolden } from "../support/golden.js";

/** Has no tokenizer. */
const tiny = goldenDirectory("hf-tiny/llama");
const small = { kvCache: { numBlocks: 40 }, threads: 2, maxModelLen: 128 };

let directory: string;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "pagoda-"));
  await cp(tiny, directory, { recursive: true });
});
afterEach(() => rm(directory, { recursive: true }));

/** Threads of this process. */
function threadCount(): number {
  return process.platform === "linux" ? readdirSync("/proc/self/task").length : 0;
}

describe("createEngine", () => {
  it("loads a model that continues as Hugging Face transformers does", async () => {
    await using engine = await createEngine({ model: tiny, ...small });
    const { cases } = await loadGolden("hf-tiny/llama");
    for (const { ids, greedy } of cases) {
      const maxTokens = greedy.length - ids.length;
      const { tokenIds } = await engine.generate({
        prompt: ids,
        maxTokens,
        temperature: 0,
        ignoreEos: true,
      });
      expect([...ids, ...tokenIds]).toEqual(greedy);
    }
  });

  it("tells what it loaded", async () => {
    await using engine = await createEngine({ model: tiny, ...small });
    expect(engine.info).toMatchObject({
      model: {
        name: "llama",
        architecture: "LlamaForCausalLM",
        vocabSize: 512,
        maxModelLen: 128,
        dtype: "f32",
        eosTokenIds: [2],
        hasTokenizer: false,
        hasChatTemplate: false,
      },
      device: { backend: "cpu", threads: 2 },
      kvCache: { numBlocks: 40, blockSize: 16, dtype: "f32" },
    });
    expect(engine.info.model.parameters).toBe(158_144);
    expect(engine.tokenizer).toBeUndefined();
    expect(engine.stats().totalBlocks).toBe(39);
  });

  it("shortens the context to what the KV cache holds", async () => {
    await using engine = await createEngine({
      model: tiny,
      threads: 1,
      kvCache: { numBlocks: 3, blockSize: 8 },
    });
    expect(engine.info.model.maxModelLen).toBe(16);
    const { tokenIds } = await engine.generate({ prompt: [1, 2, 3], ignoreEos: true });
    expect(tokenIds).toHaveLength(13);
  });

  it("sizes the cache by memory, and by default for maxSequences full contexts", async () => {
    await using engine = await createEngine({
      model: tiny,
      threads: 1,
      scheduler: { maxSequences: 3 },
    });
    expect(engine.info.kvCache.numBlocks).toBe(3 * (256 / 16) + 1);
    const block = engine.info.kvCache.memory / engine.info.kvCache.numBlocks;
    const memory = 10 * block + 1;
    await using other = await createEngine({ model: tiny, threads: 1, kvCache: { memory } });
    expect(other.info.kvCache).toMatchObject({ numBlocks: 10, memory: 10 * block });
  });

  it("keeps f16 checkpoints in 16 bits, with the logits of f32", async () => {
    const model = goldenDirectory("hf-extra/llama-f16");
    await using f16 = await createEngine({ model, ...small });
    await using f32 = await createEngine({ model, ...small, dtype: "f32" });
    expect([f16.info.model.dtype, f16.info.kvCache.dtype]).toEqual(["f16", "f32"]);
    expect(f16.info.weightMemory / f32.info.weightMemory).toBeCloseTo(0.5, 1); // vectors are f32
    const ids = [5, 6, 7, 8];
    expect(await f16.logits(ids)).toEqual(await f32.logits(ids));
  });

  it("keeps bf16 checkpoints as bf16, and changes the type on request", async () => {
    await using demo = await createEngine({ model: demoModel, ...small });
    expect(demo.info.model.dtype).toBe("bf16");
    expect(demo.info.kvCache.dtype).toBe("bf16");
    await using engine = await createEngine({ model: tiny, ...small, dtype: "bf16" });
    expect(engine.info.model.dtype).toBe("bf16");
    const f32 = await createEngine({
      model: tiny,
      ...small,
      kvCache: { numBlocks: 9, dtype: "bf16" },
    });
    expect([f32.info.model.dtype, f32.info.kvCache.dtype]).toEqual(["f32", "bf16"]);
    await f32.close();
  });

  it("reports its progress: open, weights in order, ready", async () => {
    const seen: LoadProgress[] = [];
    await using engine = await createEngine({
      model: tiny,
      ...small,
      onProgress: (p) => seen.push(p),
    });
    expect(seen[0]).toEqual({ phase: "open", loaded: 0, total: 0 });
    const ready = seen.at(-1)!;
    expect(ready).toEqual({ phase: "ready", loaded: ready.total, total: ready.total });
    expect(ready.total).toBe(4 * engine.info.model.parameters);
    const loaded = seen.slice(1).map((progress) => progress.loaded);
    expect(loaded).toEqual(loaded.toSorted((a, b) => a - b));
    expect(seen.filter(({ phase }) => phase === "weights").length).toBeGreaterThan(0);
  });

  it("streams text of a real tokenizer, and stops at a stop text", async () => {
    await using engine = await createEngine({ model: demoModel, ...small });
    const request = { prompt: "Once upon a time", maxTokens: 40, temperature: 0 };
    const generation = engine.generate(request);
    let text = "";
    for await (const delta of generation) text += delta.text;
    const result = await generation;
    expect(text).toBe(result.text);
    expect(await engine.tokenizer!.decode(result.tokenIds)).toBe(text.trimStart());
    const stop = text.slice(20, 24);
    const stopped = await engine.generate({ ...request, stop });
    expect(stopped.text).toBe(text.slice(0, text.indexOf(stop)));
    expect(stopped.finishReason).toBe("stop");
    expect(result.tokenIds.slice(0, stopped.tokenIds.length)).toEqual(stopped.tokenIds);
  });
});

describe("createEngine refuses", () => {
  const bad: [string, unknown][] = [
    ["options", undefined],
    ["options", null],
    ["options", "models/demo"],
    ["model", { model: undefined }],
    ["model", { model: 5 }],
    ["device", { device: 5 }],
    ["device", { device: "gpu" }],
    ["device", { device: "cuda:x" }],
    ["dtype", { dtype: "f16" }],
    ["dtype", { dtype: null }],
    ["kvCache", { kvCache: null }],
    ["kvCache.blockSize", { kvCache: { blockSize: 0 } }],
    ["kvCache.blockSize", { kvCache: { blockSize: 257 } }],
    ["kvCache.numBlocks", { kvCache: { numBlocks: 1 } }],
    ["kvCache.numBlocks", { kvCache: { numBlocks: 2 ** 31 } }],
    ["kvCache.memory", { kvCache: { memory: -1 } }],
    ["kvCache.memory", { kvCache: { memory: "1GB" } }],
    ["kvCache.dtype", { kvCache: { dtype: "int4" } }],
    ["scheduler", { scheduler: [] }],
    ["scheduler.maxBatchTokens", { scheduler: { maxBatchTokens: 0 } }],
    ["scheduler.maxBatchTokens", { scheduler: { maxBatchTokens: 2 ** 20 + 1 } }],
    ["scheduler.maxSequences", { scheduler: { maxSequences: 1.5 } }],
    ["scheduler.maxQueue", { scheduler: { maxQueue: -1 } }],
    ["scheduler.maxChunkTokens", { scheduler: { maxChunkTokens: NaN } }],
    ["maxModelLen", { maxModelLen: 1 }],
    ["maxModelLen", { maxModelLen: 257 }],
    ["threads", { threads: 0 }],
    ["threads", { threads: 1e9 }],
    ["signal", { signal: {} }],
    ["onProgress", { onProgress: "yes" }],
  ];

  it.each(bad)("a bad %s: %o", async (parameter, options) => {
    const all = options && typeof options === "object" ? { model: tiny, ...options } : options;
    await expect(createEngine(all as EngineOptions)).rejects.toMatchObject({
      code: "ERR_ARGUMENT",
      details: { parameter },
    });
  });

  it("a cache without room, or memory that the machine does not have, with the numbers", async () => {
    await expect(createEngine({ model: tiny, kvCache: { memory: 1000 } })).rejects.toMatchObject({
      code: "ERR_MEMORY",
      details: { needed: expect.any(Number), kvBlock: expect.any(Number) },
    });
    const numBlocks = 2 ** 27 - 1;
    await expect(createEngine({ model: tiny, kvCache: { numBlocks } })).rejects.toMatchObject({
      code: "ERR_MEMORY",
      message: expect.stringMatching(/needs .* MiB .* available/),
      details: { available: expect.any(Number) },
    });
  });

  it("a weight that is missing, before it allocates", async () => {
    const config = await loadConfig();
    await writeFile(
      join(directory, "config.json"),
      JSON.stringify({ ...config, num_hidden_layers: 9 }),
    );
    await expect(createEngine({ model: directory, ...small })).rejects.toMatchObject({
      code: "ERR_TENSOR_MISMATCH",
      details: { tensor: expect.stringContaining("layers.3") },
    });
  });

  it("sampling defaults of the model that are out of range", async () => {
    await writeFile(
      join(directory, "generation_config.json"),
      JSON.stringify({ temperature: 1000 }),
    );
    await expect(createEngine({ model: directory, ...small })).rejects.toMatchObject({
      code: "ERR_CONFIG_INVALID",
    });
  });

  it("a directory that does not exist", async () => {
    await expect(createEngine({ model: join(directory, "no") })).rejects.toMatchObject({
      code: "ERR_MODEL_NOT_FOUND",
    });
  });

  async function loadConfig(): Promise<object> {
    const { default: config } = await import(join(directory, "config.json"), {
      with: { type: "json" },
    });
    return config as object;
  }
});

describe("loading that ends early leaves nothing behind", () => {
  it("when its signal fires, before and at any progress", async () => {
    await expect(
      createEngine({ model: demoModel, signal: AbortSignal.abort("no") }),
    ).rejects.toMatchObject({
      code: "ERR_ABORTED",
    });
    await using engine = await createEngine({ model: demoModel, ...small });
    const before = threadCount();
    for (const phase of ["open", "weights", "ready"]) {
      const controller = new AbortController();
      const onProgress = (progress: LoadProgress) => {
        if (progress.phase === phase) controller.abort("enough");
      };
      const loading = createEngine({
        model: demoModel,
        ...small,
        signal: controller.signal,
        onProgress,
      });
      if (phase === "ready") {
        await (await loading).close(); // it had already been loaded
      } else {
        await expect(loading).rejects.toMatchObject({
          code: "ERR_ABORTED",
          cause: expect.anything(),
        });
      }
    }
    await settle(() => threadCount() <= before);
    expect(threadCount()).toBeLessThanOrEqual(before);
    expect(engine.stats().running).toBe(0);
  });

  it("when a signal of another kind fires", async () => {
    const listeners: (() => void)[] = [];
    const signal = {
      aborted: false,
      reason: "enough",
      addEventListener: (_: string, listener: () => void) => listeners.push(listener),
      removeEventListener: () => listeners.splice(0),
    };
    const onProgress = ({ phase }: LoadProgress) => {
      if (phase !== "weights") return;
      signal.aborted = true;
      for (const listener of listeners) listener();
    };
    const options = { model: tiny, ...small, signal: signal as unknown as AbortSignal, onProgress };
    await expect(createEngine(options)).rejects.toMatchObject({
      code: "ERR_ABORTED",
      cause: "enough",
    });
    expect(listeners).toEqual([]);
  });

  it("when onProgress throws", async () => {
    await using engine = await createEngine({ model: demoModel, ...small });
    const before = threadCount();
    for (const phase of ["open", "weights", "ready"]) {
      const onProgress = (progress: LoadProgress) => {
        if (progress.phase === phase) throw new RangeError(phase);
      };
      await expect(createEngine({ model: demoModel, ...small, onProgress })).rejects.toThrow(
        RangeError,
      );
    }
    await settle(() => threadCount() <= before);
    expect(threadCount()).toBeLessThanOrEqual(before);
    expect(engine.stats().running).toBe(0);
  });

  it("when tokenizer.json is broken", async () => {
    await writeFile(join(directory, "tokenizer.json"), "{");
    await expect(createEngine({ model: directory, ...small })).rejects.toMatchObject({
      code: "ERR_TOKENIZER_INVALID",
    });
  });

  async function settle(condition: () => boolean): Promise<void> {
    for (let i = 0; i < 100 && !condition(); i++)
      await new Promise((resolve) => setTimeout(resolve, 20));
  }
});
