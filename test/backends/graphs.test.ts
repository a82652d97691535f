import { describe, expect, it } from "vitest";
import { createEngine } from "../../lib/engine/create-engine.js";
import type { Engine, EngineOptions } from "../../lib/engine/types.js";
import { emulatedPlugIn, setEmulatedGpu, useEmulatedGpu } from "../support/emulated-gpu.js";
import { goldenDirectory } from "../support/golden.js";

const options = {
  model: goldenDirectory("hf-tiny/llama"),
  device: "cuda:0",
  kvCache: { numBlocks: 80, blockSize: 8 },
  scheduler: { maxBatchTokens: 16, maxSequences: 5 },
} as const satisfies EngineOptions;

async function generate(engine: Engine, seed: number, maxTokens: number): Promise<number[]> {
  const prompt = Array.from(
    { length: 1 + ((7 * seed) % 11) },
    (_, i) => 3 + ((31 * seed + 17 * i) % 500),
  );
  const { tokenIds } = await engine.generate({
    prompt,
    maxTokens,
    temperature: 0.8,
    seed,
    ignoreEos: true,
  });
  return [...tokenIds];
}

/** Seven requests of different lengths, of which five run at a time: they come and go between decode steps. */
async function generateAll(options: EngineOptions): Promise<number[][]> {
  await using engine = await createEngine(options);
  return await Promise.all([2, 9, 4, 12, 7, 5, 10].map((length, i) => generate(engine, i, length)));
}

describe.skipIf(emulatedPlugIn === undefined)("recorded decode steps", () => {
  it.each(["llama", "gemma3", "deepseek-v3", "qwen3-moe"])(
    "draw what single ops draw: %s",
    async (name) => {
      useEmulatedGpu();
      const model = goldenDirectory(`hf-tiny/${name}`);
      const eager = await generateAll({ ...options, model, enforceEager: true });
      expect(await generateAll({ ...options, model })).toEqual(eager);
    },
  );

  it("draw what the CPU draws", async () => {
    useEmulatedGpu();
    expect(await generateAll(options)).toEqual(await generateAll({ ...options, device: "cpu" }));
  });

  it("are run by one call each from the second one on, unless ops are to be queued one by one", async () => {
    useEmulatedGpu();
    await using eager = await createEngine({ ...options, device: "cuda:0", enforceEager: true });
    setEmulatedGpu("graph=1");
    expect(await generate(eager, 1, 8)).toHaveLength(8);
    const engine = await createEngine(options);
    setEmulatedGpu("graph=5");
    // The prompt's step draws a token, the first decode step is not recorded, four more run.
    const drawn: number[] = [];
    const generation = engine.generate({
      prompt: [1, 2, 3],
      maxTokens: 20,
      temperature: 0,
      ignoreEos: true,
    });
    const failure = {
      code: "ERR_BACKEND_FAILED",
      message: expect.stringContaining("IllegalAddress"),
    };
    await expect(
      (async () => {
        for await (const { tokenIds } of generation) drawn.push(...tokenIds);
      })(),
    ).rejects.toMatchObject(failure);
    expect(drawn).toHaveLength(6);
    await engine.close();
  });

  it("are recorded anew where memory has failed, and what ops hold is another one", async () => {
    useEmulatedGpu();
    const expected = await generateAll(options);
    for (const allocation of [13, 16, 19]) {
      setEmulatedGpu(`allocation=${allocation}`);
      expect(await generateAll(options)).toEqual(expected);
    }
  });
});
