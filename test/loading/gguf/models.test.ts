import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { compileCheckpoint } from "../../../lib/engine/compile-checkpoint.js";
import { openModel } from "../../../lib/loading/model-directory.js";
import { defineModel } from "../../../lib/models/registry.js";
import { unlessUnsupported } from "../../support/devices.js";
import { executorKinds, type ExecutorKind } from "../../support/executors.js";
import { ggufOfDirectory, writeGgufOf } from "../../support/gguf-model.js";
import { tensorTypeIds, writeGguf, type GgufTensor } from "../../support/gguf-writer.js";
import { goldenDirectory, goldenNames, loadGolden, type Golden } from "../../support/golden.js";
import { makeStep } from "../../support/step.js";

/** The format has no word for windows in some layers of Qwen2, nor for pairs that are halves in latent attention. */
const others = new Set(["hf-extra/qwen2-window", "hf-extra/deepseek-v3-halves"]);
const names = goldenNames().filter((name) => !others.has(name));
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

describe("an older file of latent attention, with one matrix for keys and values", () => {
  const name = "hf-tiny/deepseek-v3";

  /** The file, and the same with that matrix in blocks of 8 bits, and with the numbers that these are. */
  async function write(kind: "as it is" | "Q8_0" | "rounded"): Promise<string> {
    const content = await ggufOfDirectory(goldenDirectory(name), { splitsLatents: false });
    const tensors = content.tensors!.map((tensor) =>
      kind === "as it is" || !tensor.name.includes("attn_kv_b") ? tensor : rounded(tensor, kind),
    );
    const path = join(scratch, `older-${kind.replaceAll(" ", "-")}.gguf`);
    writeFileSync(path, writeGguf({ ...content, tensors }));
    return path;
  }

  it.for(kinds)("has the same logits on $name", async (kind, { skip }) => {
    const older = await loadGolden(name, "f32", await write("as it is"));
    await unlessUnsupported(kind, skip, async () => {
      const actual = await logitsOf(kind, older, 0);
      expect(maxDifference(actual, older.cases[0]!.logits)).toBeLessThan(goldenTolerance);
    });
  });

  it.for(kinds)("may be quantised on $name", async (kind, { skip }) => {
    const [blocks, numbers] = [
      await loadGolden(name, "f32", await write("Q8_0")),
      await loadGolden(name, "f32", await write("rounded")),
    ];
    await unlessUnsupported(kind, skip, async () => {
      const expected = await logitsOf(kind, numbers, 0);
      expect(maxDifference(await logitsOf(kind, blocks, 0), expected)).toBe(0);
    });
  });

  it("keeps the type of the part that is not transposed", async () => {
    const { config, checkpoint } = await openModel(await write("Q8_0"));
    const limits = { maxTokens: 8, maxOutputs: 8 };
    const { plan } = compileCheckpoint(defineModel(config), checkpoint, "auto", limits);
    const typeOf = (part: string): string | undefined =>
      plan.weights.find((weight) => weight.name === `layers.1.self_attn.kv_b_proj.${part}`)?.dtype;
    expect([typeOf("key_up"), typeOf("value_up")]).toEqual(["f32", "q8_0"]);
  });
});

/** F32 as Q8_0 with scales of 1/32, or the numbers of that. */
function rounded(tensor: GgufTensor, kind: "Q8_0" | "rounded"): GgufTensor {
  const values = new Float32Array(new Uint8Array(tensor.data).buffer);
  const codes = values.map((value) => Math.max(-127, Math.min(127, Math.round(32 * value))));
  if (kind === "rounded") {
    return { ...tensor, data: new Uint8Array(codes.map((code) => code / 32).buffer) };
  }
  const scale = [0x00, 0x28];
  const blocks = Array.from({ length: codes.length / 32 }, (_, i) => {
    return [...scale, ...Int8Array.from(codes.subarray(32 * i, 32 * i + 32))];
  });
  return { ...tensor, type: tensorTypeIds.Q8_0, data: Uint8Array.from(blocks.flat()) };
}

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
