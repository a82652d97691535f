import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createEngine, type EngineOptions } from "pagoda-llm";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { writeGgufOf } from "../support/gguf-model.js";
import { goldenDirectory } from "../support/golden.js";

/** Made for 128 tokens, trained with 16. */
const directory = goldenDirectory("hf-extra/phi3-longrope");
const prompt = [5, 9, 31, 77, 101, 64, 3, 18, 90, 44];
/** The first logits of the last row by Hugging Face transformers 5.18 in float64, for which these ids are a short sequence. */
const shortLogits = [1.076444, -1.015565, 1.021275, -0.002093478, -1.468991, -2.026031];

let scratch = "";
beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), "pagoda-longrope-"));
});
afterAll(() => rm(scratch, { recursive: true }));

async function lastLogits(options: EngineOptions): Promise<number[]> {
  await using engine = await createEngine({ threads: 2, ...options });
  const logits = await engine.logits(prompt);
  const width = logits.length / prompt.length;
  return [...logits.subarray(-width).subarray(0, shortLogits.length)];
}

function difference(a: readonly number[], b: readonly number[]): number {
  return Math.max(...a.map((x, i) => Math.abs(x - b[i]!)));
}

describe.each(["a directory", "a GGUF file"])("LongRoPE, from %s", (source) => {
  it("has its short frequencies where no sequence is longer than the pretraining's", async () => {
    const model = source === "a directory" ? directory : join(scratch, "longrope.gguf");
    if (model !== directory) await writeFile(model, await writeGgufOf(directory));
    expect(difference(await lastLogits({ model, maxModelLen: 16 }), shortLogits)).toBeLessThan(
      1e-4,
    );
    const long = await lastLogits({ model, maxModelLen: 17 });
    expect(difference(long, shortLogits)).toBeGreaterThan(0.01);
    expect(await lastLogits({ model })).toEqual(long);
  });
});

describe("a session", () => {
  it("is computed again by an engine with other frequencies", async () => {
    const options = { model: directory, threads: 2, kvCache: { numBlocks: 40, blockSize: 4 } };
    const request = { prompt: [7], maxTokens: 3, temperature: 0, ignoreEos: true };
    const file = join(scratch, "long.session");
    {
      await using engine = await createEngine({ ...options, maxModelLen: 100 });
      await using session = engine.session();
      await session.generate({ ...request, prompt, maxTokens: 1 });
      await session.save(file);
    }
    const cachedTokens = async (maxModelLen: number): Promise<number> => {
      await using engine = await createEngine({ ...options, maxModelLen });
      await using session = await engine.restoreSession(file);
      const { usage, tokenIds } = await session.generate(request);
      expect(tokenIds).toHaveLength(3);
      return usage.cachedTokens;
    };
    expect(await cachedTokens(99)).toBeGreaterThan(0);
    expect(await cachedTokens(16)).toBe(0);
  });
});
