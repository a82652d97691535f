import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it } from "vitest";
import { compileCheckpoint } from "../../../lib/engine/compile-checkpoint.js";
import type { Plan } from "../../../lib/graph/plan.js";
import { openModel } from "../../../lib/loading/model-directory.js";
import type { Checkpoint } from "../../../lib/loading/safetensors.js";
import { readWeight } from "../../../lib/loading/weights.js";
import { defineModel } from "../../../lib/models/registry.js";
import { unlessUnsupported } from "../../support/devices.js";
import { executorKinds, type ExecutorKind } from "../../support/executors.js";
import { makeStep } from "../../support/step.js";

const script = fileURLToPath(new URL("../../../bench/make-model.mjs", import.meta.url));
const scratch = mkdtempSync(join(tmpdir(), "pagoda-quantized-"));
afterAll(() => rmSync(scratch, { recursive: true }));

type Shape = "tiny" | "tiny-moe" | "tiny-mla";

/** A random model of two layers in this type. */
function makeModel(type: string, shape: Shape = "tiny"): string {
  const file = join(scratch, `${shape}-${type}${type === "hf" ? "" : ".gguf"}`);
  const { status, stderr } = spawnSync(process.execPath, [script, shape, type, file], {
    encoding: "utf8",
  });
  expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
  return file;
}

interface Model {
  readonly plan: Plan;
  readonly checkpoint: Checkpoint;
  readonly weights: readonly Float32Array[];
  readonly dtype: string;
}

async function load(type: string, shape?: Shape): Promise<Model> {
  const { config, checkpoint } = await openModel(makeModel(type, shape));
  const limits = { maxTokens: 16, maxOutputs: 16 };
  const { plan, dtype } = compileCheckpoint(defineModel(config), checkpoint, "auto", limits);
  const weights = await Promise.all(plan.weights.map((weight) => readWeight(checkpoint, weight)));
  return { plan, checkpoint, weights, dtype };
}

const kinds = await executorKinds();
const exact = load("f32");

/** Types, and how far their logits may be from those of the same weights in float32, as a part of their size. */
const types = [
  ["f16", "f16", 0.002],
  ["bf16", "bf16", 0.02],
  ["q8_0", "q8_0", 0.04],
  ["q6_k", "q6_k", 0.1],
  ["q5_1", "q5_1", 0.2],
  ["q5_0", "q5_0", 0.2],
  ["q5_k", "q5_k", 0.2],
  ["q4_1", "q4_1", 0.4],
  ["q4_0", "q4_0", 0.4],
  ["q4_k", "q4_k", 0.4],
  ["q4_k_m", "q4_k", 0.4],
  ["mxfp4", "mxfp4", 0.6],
] as const;

describe.each(types)("a GGUF file of %s", (type, dtype, tolerance) => {
  const model = load(type);

  it(`has weights of ${dtype} in memory`, async () => {
    const { plan, dtype: found } = await model;
    expect(found).toBe(dtype);
    if (type === "q4_k_m") return;
    const types = plan.weights.map((weight) => (weight.kind === "vector" ? "f32" : dtype));
    expect(plan.weights.map((weight) => weight.dtype)).toEqual(types);
  });

  it.for(kinds)("has nearly the logits of float32 on $name", async (kind, { skip }) => {
    await unlessUnsupported(kind, skip, async () => {
      const [expected, actual] = [
        await logitsOf(kind, await exact),
        await logitsOf(kind, await model),
      ];
      expect(relativeError(actual, expected)).toBeLessThan(tolerance);
    });
  });

  it.for(kinds.filter(({ name }) => name !== "reference"))(
    "has the reference's logits on $name",
    async (kind, { skip }) => {
      await unlessUnsupported(kind, skip, async () => {
        const expected = await logitsOf(kinds[0]!, await model);
        // Products with quantised weights round activations to 8 bits, some with bf16 weights to bf16.
        const roundsInputs = type !== "f16";
        const error = relativeError(await logitsOf(kind, await model), expected);
        expect(error).toBeLessThan(roundsInputs ? 0.03 : 1e-5);
      });
    },
  );
});

describe.each([
  ["tiny-moe", "q8_0", 0.04],
  ["tiny-moe", "q4_0", 0.4],
  ["tiny-moe", "q4_k_m", 0.4],
  ["tiny-moe", "mxfp4_moe", 0.6],
  ["tiny-mla", "q8_0", 0.04],
  ["tiny-mla", "q4_k_m", 0.4],
] as const)("experts in a GGUF file: %s of %s", (shape, type, tolerance) => {
  const [moe, plain] = [load(type, shape), load("f32", shape)];

  it.for(kinds)("have nearly the logits of float32 on $name", async (kind, { skip }) => {
    await unlessUnsupported(kind, skip, async () => {
      const actual = await logitsOf(kind, await moe);
      expect(medianError(actual, await logitsOf(kind, await plain))).toBeLessThan(tolerance);
      const expected = await logitsOf(kinds[0]!, await moe);
      expect(medianError(actual, expected)).toBeLessThan(0.03);
    });
  });

  it("keep their type, the router that of the file's plain tensors", async () => {
    const { plan } = await moe;
    const typeOf = (name: string): string | undefined =>
      plan.weights.find((weight) => weight.name === `layers.1.mlp.${name}`)?.dtype;
    const quantized = { q4_k_m: "q4_k", mxfp4_moe: "mxfp4" }[type as string] ?? type;
    const names = ["gate", "experts.gate_proj", "experts.up_proj", "experts.down_proj"];
    expect(names.map(typeOf)).toEqual(["bf16", quantized, quantized, quantized]);
    const rich = plan.weights.find(({ name }) => /^layers\.0\.mlp\..*down_proj$/.test(name));
    expect(rich!.dtype).toBe(type === "q4_k_m" ? "q6_k" : quantized);
  });
});

it("matrices of different types are not stacked", async () => {
  const { plan } = await load("q4_k_m");
  const linears = plan.steps.filter(({ op }) => op === "linear");
  const named = linears.map(({ name, weights }) => [name, plan.weights[weights[0]!]!.dtype]);
  const attention = (layer: number) =>
    named.filter(([name]) => name!.startsWith(`layers.${layer}.self_attn`));
  expect(attention(0)).toEqual([
    ["layers.0.self_attn.q_proj", "q4_k"],
    ["layers.0.self_attn.k_proj", "q4_k"],
    ["layers.0.self_attn.v_proj", "q6_k"],
    ["layers.0.self_attn.o_proj", "q4_k"],
  ]);
  expect(attention(1)).toEqual([
    ["layers.1.self_attn.qkv_proj", "q4_k"],
    ["layers.1.self_attn.o_proj", "q4_k"],
  ]);
  expect(named.at(-1)).toEqual(["lm_head", "q6_k"]);
});

it("a type that is asked for is what the matrices get", async () => {
  const { config, checkpoint } = await openModel(makeModel("q6_k"));
  const limits = { maxTokens: 16, maxOutputs: 16 };
  for (const dtype of ["f32", "bf16"] as const) {
    const { plan } = compileCheckpoint(defineModel(config), checkpoint, dtype, limits);
    const matrices = plan.weights.filter(({ kind }) => kind !== "vector");
    expect(new Set(matrices.map((weight) => weight.dtype))).toEqual(new Set([dtype]));
  }
});

it.each(["tiny", "tiny-moe"] as const)("the directory of %s is the same model", async (shape) => {
  for (const kind of kinds) {
    const [gguf, directory] = [await load("bf16", shape), await load("hf", shape)];
    const expected = await logitsOf(kind, directory);
    // Norms are float32 in the one and bfloat16 in the other.
    expect(medianError(await logitsOf(kind, gguf), expected)).toBeLessThan(0.01);
  }
});

const tokenIds = [1, 300, 17, 950, 2, 5, 600, 43, 44, 45];

/** Teacher-forced, all tokens in one step. */
async function logitsOf(kind: ExecutorKind, model: Model): Promise<Float32Array> {
  const kv = { numBlocks: 8, blockSize: 4 };
  const executor = await kind.create({ ...model, kv, maxRequests: 1 });
  try {
    return await executor.logits(
      makeStep([{ tokenIds, numComputedTokens: 0, blocks: [1, 2, 3] }], 4),
    );
  } finally {
    await executor.close();
  }
}

/** Root mean square of the difference, as a part of that of the values. */
function relativeError(actual: Float32Array, expected: Float32Array): number {
  const size = (values: Float32Array): number =>
    Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
  return size(actual.map((value, i) => value - expected[i]!)) / size(expected);
}

/** The median over the rows: one whose experts are nearly tied may be given others. */
function medianError(actual: Float32Array, expected: Float32Array): number {
  const width = actual.length / tokenIds.length;
  const errors = tokenIds.map((_, row) => {
    const [from, to] = [row * width, (row + 1) * width];
    return relativeError(actual.subarray(from, to), expected.subarray(from, to));
  });
  return errors.toSorted((a, b) => a - b)[tokenIds.length >> 1]!;
}
