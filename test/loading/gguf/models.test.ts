import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { unlessUnsupported } from "../../support/devices.js";
import { executorKinds, type ExecutorKind } from "../../support/executors.js";
import { writeGgufOf } from "../../support/gguf-model.js";
import { goldenDirectory, goldenNames, loadGolden, type Golden } from "../../support/golden.js";
import { makeStep } from "../../support/step.js";

/** The format has no word for windows in some layers of Qwen2; mixtures of experts are not read from it. */
const others = [/qwen2-window$/, /mixtral$/, /qwen3-moe$/, /gpt-oss$/, /deepseek/];
const names = goldenNames().filter((name) => !others.some((other) => other.test(name)));
/** Against the logits of Hugging Face transformers in float64. */
const goldenTolerance = 1e-4;
/** Against the same model as safetensors: only sums over a permuted head and scaled frequencies differ. */
const sameModelTolerance = 1e-5;

const kinds = await executorKinds();
const scratch = mkdtempSync(join(tmpdir(), "pagoda-gguf-"));
afterAll(() => rmSync(scratch, { recursive: true }));

describe.each(names)("%s as a GGUF file", (name) => {
  const models = loadBoth(name);

  it.for(kinds)("has the same logits on $name", async (kind, { skip }) => {
    const { directory, gguf } = await models;
    await unlessUnsupported(kind, skip, async () => {
      for (const index of directory.cases.keys()) {
        const expected = await logitsOf(kind, directory, index);
        const actual = await logitsOf(kind, gguf, index);
        expect(maxDifference(actual, directory.cases[index]!.logits)).toBeLessThan(goldenTolerance);
        expect(maxDifference(actual, expected)).toBeLessThan(sameModelTolerance);
      }
    });
  });

  it("has the same steps and weights", async () => {
    const { directory, gguf } = await models;
    const facts = ({ plan }: Golden): unknown =>
      plan.weights.map(({ name, kind, rows, cols, dtype }) => ({ name, kind, rows, cols, dtype }));
    expect(facts(gguf)).toEqual(facts(directory));
    expect(gguf.plan.steps.map((step) => step.name)).toEqual(
      directory.plan.steps.map((step) => step.name),
    );
  });
});

async function loadBoth(name: string): Promise<{ directory: Golden; gguf: Golden }> {
  const path = join(scratch, `${name.replace("/", "-")}.gguf`);
  writeFileSync(path, await writeGgufOf(goldenDirectory(name)));
  return { directory: await loadGolden(name), gguf: await loadGolden(name, "f32", path) };
}

/** Teacher-forced, all tokens in one step. */
async function logitsOf(kind: ExecutorKind, model: Golden, index: number): Promise<Float32Array> {
  const { plan, weights, checkpoint, cases } = model;
  const kv = { numBlocks: 1 + 40 * plan.kvGroups.length, blockSize: 4 };
  const executor = await kind.create({ plan, weights, checkpoint, kv, maxRequests: 1 });
  try {
    const { ids } = cases[index]!;
    const blocks = Array.from({ length: Math.ceil(ids.length / 4) }, (_, i) => i + 1);
    const request = { tokenIds: ids, blocks };
    return await executor.logits(makeStep([request], 4, executor.limits.kvGroups.length));
  } finally {
    await executor.close();
  }
}

/** NaN counts as infinitely far. */
function maxDifference(a: Float32Array, b: Float32Array): number {
  expect(a.length).toBe(b.length);
  const differences = a.map((value, i) => Math.abs(value - b[i]!));
  return differences.reduce((max, d) => Math.max(max, Number.isNaN(d) ? Infinity : d), 0);
}
