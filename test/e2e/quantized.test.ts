import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { createEngine, planMemory, type EngineOptions } from "pagoda-llm";
import { describe, expect, it } from "vitest";

const root = fileURLToPath(new URL("../..", import.meta.url));
const model = `${root}models/demo`;

interface Scores {
  /** Natural logarithm of the perplexity. */
  readonly loss: number;
  /** Most probable tokens. */
  readonly top: readonly number[];
  /** Of the most probable token over the next, as logarithms. */
  readonly margins: readonly number[];
}

/** What the engine thinks of texts that the demo model has written, place by place. */
async function score(options: Omit<EngineOptions, "model">): Promise<Scores> {
  type Case = { promptTokenIds: number[]; outputTokenIds: number[] };
  const text = await readFile(`${root}test/fixtures/demo-model/greedy.json`, "utf8");
  await using engine = await createEngine({ model, ...options });
  const results = await Promise.all(
    (JSON.parse(text) as Case[]).map(({ promptTokenIds, outputTokenIds }) => {
      const prompt = [...promptTokenIds, ...outputTokenIds];
      return engine.generate({ prompt, maxTokens: 1, temperature: 0, promptLogprobs: 2 });
    }),
  );
  const places = results.flatMap(({ promptLogprobs }) => promptLogprobs!.slice(1));
  return {
    loss: places.reduce((sum, place) => sum - place!.logprob, 0) / places.length,
    top: places.map((place) => place!.top[0]!.id),
    margins: places.map((place) => place!.top[0]!.logprob - place!.top[1]!.logprob),
  };
}

describe("the demo model, quantised", () => {
  it.each([
    [{ dtype: "q8" }, { loss: 0.003, margin: 0.3 }],
    [{ dtype: "q4" }, { loss: 0.03, margin: 1.5 }],
    [
      { dtype: "f32", kvCache: { dtype: "int8" } },
      { loss: 0.003, margin: 0.3 },
    ],
  ] as const)("%o: perplexity and tokens nearly as in f32", async (options, bounds) => {
    const expected = await score({ dtype: "f32" });
    const actual = await score(options);
    expect(Math.abs(actual.loss - expected.loss)).toBeLessThan(bounds.loss);
    const clear = [...expected.margins.keys()].filter((i) => expected.margins[i]! > bounds.margin);
    expect(clear.length).toBeGreaterThan(expected.margins.length / 2);
    const wrong = clear.filter((i) => actual.top[i] !== expected.top[i]);
    expect(wrong).toEqual([]);
  });

  it("keeps sessions with an int8 KV cache, in the engine and in files", async () => {
    const directory = await mkdtemp(join(tmpdir(), "pagoda-"));
    const options = { model, kvCache: { dtype: "int8" } } as const;
    const story = { prompt: "Once upon a time there was a little boy. ".repeat(4), temperature: 0 };
    const next = { prompt: " Then", temperature: 0, maxTokens: 20 };
    await using engine = await createEngine(options);
    const { bytesPerToken, dtype } = (await planMemory(options)).kvCache;
    expect([dtype, engine.info.kvCache.dtype]).toEqual(["int8", "int8"]);
    expect(bytesPerToken).toBe(((await planMemory({ model })).kvCache.bytesPerToken * 36) / 64);
    await using session = engine.session();
    await session.generate({ ...story, maxTokens: 20 });
    const file = join(directory, "int8.session");
    await session.save(file);
    await using fork = session.fork();
    const expected = await session.generate(next);
    expect((await fork.generate(next)).text).toBe(expected.text);
    await using other = await createEngine(options);
    await using restored = await other.restoreSession(file);
    const again = await restored.generate(next);
    expect(again.text).toBe(expected.text);
    expect(again.usage.cachedTokens).toBeGreaterThan(0);
    await rm(directory, { recursive: true });
  });

  it("takes the memory that the bits of a weight need", async () => {
    const memory = async (dtype: NonNullable<EngineOptions["dtype"]>): Promise<number> => {
      await using engine = await createEngine({ model, dtype });
      expect(engine.info.model.dtype).toBe(dtype);
      expect(engine.info.kvCache.dtype).toBe("bf16");
      return engine.info.weightMemory;
    };
    const bf16 = await memory("bf16");
    expect((await memory("q8")) / bf16).toBeCloseTo(8.5 / 16, 2);
    expect((await memory("q4")) / bf16).toBeCloseTo(5.2 / 16, 1);
  });
});
