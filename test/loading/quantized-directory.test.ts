import { spawnSync } from "node:child_process";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createEngine } from "../../lib/engine/create-engine.js";
import {
  quantizeDirectory,
  readTensors,
  writeTensors,
  type Recipe,
} from "../support/quantized-directory.js";

const script = fileURLToPath(new URL("../../bench/make-model.mjs", import.meta.url));
const scratch = mkdtempSync(join(tmpdir(), "pagoda-directories-"));
const base = join(scratch, "base");
afterAll(() => rmSync(scratch, { recursive: true }));
beforeAll(() => {
  expect(spawnSync(process.execPath, [script, "tiny", "hf", base]).status).toBe(0);
});

const gptq: Recipe = {
  method: "gptq",
  bits: 4,
  groupSize: 128,
  symmetric: true,
  scaleDtype: "F16",
};
const awq: Recipe = { ...gptq, method: "awq", symmetric: false };
const packed: Recipe = { ...gptq, method: "pack-quantized", scaleDtype: "BF16" };
const wide: Recipe = { ...packed, method: "int-quantized", bits: 8, groupSize: undefined };

/** Recipes, the type in memory, and how far logits in float32 may be off, as a part of their size. */
const recipes: Record<string, [Recipe, string, number]> = {
  "gptq, symmetric": [gptq, "q4_0", 1e-6],
  "gptq, asymmetric, groups of 32": [{ ...gptq, symmetric: false, groupSize: 32 }, "q4_1", 0.002],
  "gptq_v2, asymmetric, groups of 64": [
    { ...gptq, method: "gptq_v2", symmetric: false, groupSize: 64 },
    "q4_1",
    0.002,
  ],
  "gptq, whole rows": [{ ...gptq, groupSize: undefined }, "q4_0", 1e-6],
  "gptq, 8 bits": [{ ...gptq, bits: 8 }, "q8_0", 1e-6],
  awq: [awq, "q4_1", 0.002],
  "awq, groups of 32": [{ ...awq, groupSize: 32 }, "q4_1", 0.002],
  "pack-quantized, symmetric": [packed, "q4_0", 1e-6],
  "pack-quantized, asymmetric": [{ ...packed, symmetric: false }, "q4_1", 0.002],
  "pack-quantized, scales in float32": [{ ...packed, scaleDtype: "F32" }, "q4_0", 0.002],
  "pack-quantized, 8 bits": [{ ...packed, bits: 8 }, "q8_0", 1e-6],
  "int-quantized, a scale a channel": [wide, "q8_0", 1e-6],
  "int-quantized, groups": [{ ...wide, groupSize: 32 }, "q8_0", 1e-6],
};

const prompt = [1, 17, 300, 42, 1000, 7, 7, 512];

async function logitsOf(model: string, dtype: "auto" | "f32", ids = prompt) {
  await using engine = await createEngine({
    model,
    dtype,
    threads: 2,
    kvCache: { numBlocks: 8, dtype: "f32" },
    maxModelLen: 64,
  });
  const logits = await engine.logits(ids);
  return { logits, dtype: engine.info.model.dtype };
}

/** The root of the mean squared difference, as a part of the root of the mean square. */
function distance(actual: Float32Array, expected: Float32Array): number {
  const sumOf = (term: (i: number) => number) => expected.reduce((sum, _, i) => sum + term(i), 0);
  const error = sumOf((i) => (actual[i]! - expected[i]!) ** 2);
  return Math.sqrt(error / sumOf((i) => expected[i]! ** 2));
}

describe.each(Object.entries(recipes))("%s", (name, [recipe, dtype, tolerance]) => {
  const quantized = join(scratch, `${name} quantized`);
  const plain = join(scratch, `${name} plain`);
  beforeAll(() => quantizeDirectory(base, recipe, { quantized, plain }));

  it("has the numbers that were quantised", async () => {
    const expected = await logitsOf(plain, "f32");
    const actual = await logitsOf(quantized, "f32");
    expect(distance(actual.logits, expected.logits)).toBeLessThan(tolerance);
  });

  it("stays quantised in memory", async () => {
    const expected = await logitsOf(plain, "f32");
    const actual = await logitsOf(quantized, "auto");
    expect(actual.dtype).toBe(dtype);
    expect(distance(actual.logits, expected.logits)).toBeLessThan(0.03);
  });
});

/** By tools/goldens/make-quantized-goldens.py: type in memory, and how far logits in float32 may be off. */
const goldens: Record<string, [string, number]> = {
  "gptq-symmetric": ["q4_0", 1e-5],
  "gptq-asymmetric": ["q4_1", 0.002],
  "gptq-stored-as-v2": ["q4_0", 1e-5],
  "gptq-v2-asymmetric": ["q4_1", 0.002],
  "gptq-act-order": ["q8_0", 0.002], // one of its linears has a single group and stays Q4_1
  "gptq-8-bits-asymmetric": ["q8_0", 1e-5],
  awq: ["q4_1", 0.002],
  "awq-symmetric": ["q4_0", 1e-5],
  "packed-asymmetric": ["q4_1", 0.002],
  "packed-act-order": ["q8_0", 1e-5],
  "packed-8-bits-asymmetric": ["q8_0", 1e-5],
  "bytes-symmetric": ["q8_0", 1e-5],
  "bytes-asymmetric": ["q8_0", 1e-5],
  mxfp4: ["mxfp4", 1e-5],
};

describe.each(Object.entries(goldens))("%s, made by other code", (name, [dtype, tolerance]) => {
  const directory = fileURLToPath(new URL(`../fixtures/quantized/${name}`, import.meta.url));
  const bytes = readFileSync(join(directory, "golden_logits.f32"));
  const expected = new Float32Array(new Uint8Array(bytes).buffer);
  const { ids } = JSON.parse(readFileSync(join(directory, "golden.json"), "utf8")) as {
    ids: number[];
  };

  it("gives the logits of its numbers", async () => {
    const { logits } = await logitsOf(directory, "f32", ids);
    expect(distance(logits, expected)).toBeLessThan(tolerance);
  });

  it("gives nearly the same from memory in 4 or 8 bits", async () => {
    const actual = await logitsOf(directory, "auto", ids);
    expect(actual.dtype).toBe(dtype);
    expect(distance(actual.logits, expected)).toBeLessThan(0.03);
  });
});

type Config = { quantization_config: Record<string, unknown> };
type Tensors = ReturnType<typeof readTensors>;

async function load(
  recipe: Recipe,
  change: {
    config?: (fields: Config["quantization_config"]) => void;
    tensors?: (t: Tensors) => void;
  },
) {
  const quantized = mkdtempSync(join(scratch, "bad-"));
  quantizeDirectory(base, recipe, { quantized, plain: join(scratch, "unused") });
  const path = join(quantized, "config.json");
  const config = JSON.parse(readFileSync(path, "utf8")) as Config;
  change.config?.(config.quantization_config);
  writeFileSync(path, JSON.stringify(config));
  const file = join(quantized, "model.safetensors");
  const tensors = readTensors(file);
  change.tensors?.(tensors);
  writeTensors(file, tensors);
  return logitsOf(quantized, "auto");
}

it("naive-quantized is another name of int-quantized", async () => {
  const config = (fields: Config["quantization_config"]) => (fields["format"] = "naive-quantized");
  expect((await load(wide, { config })).dtype).toBe("q8_0");
});

describe("groups of columns", () => {
  const desc_act = (fields: Config["quantization_config"]) => (fields["desc_act"] = true);
  const groups = (numbers: Int32Array) => ({
    dtype: "I32",
    shape: [numbers.length],
    data: new Uint8Array(numbers.buffer),
  });

  it("in the order of the columns stay blocks of 4 bits", async () => {
    expect((await load(gptq, { config: desc_act })).dtype).toBe("q4_0");
    const tensors = (all: Tensors) => {
      for (const name of [...all.keys()].filter((key) => key.endsWith("_packed"))) {
        const cols = 8 * all.get(name)!.shape[1]!;
        const unset = groups(new Int32Array(cols).fill(-1));
        all.set(name.replace("weight_packed", "weight_g_idx"), unset);
      }
    };
    expect((await load(packed, { tensors })).dtype).toBe("q4_0");
  });

  it.each<[string, string, (tensors: Tensors, name: string) => void]>([
    ["must be there", "ERR_TENSOR_MISMATCH", (all, name) => all.delete(name)],
    ["must be of all columns", "ERR_TENSOR_MISMATCH", (all, name) => set(all, name, [0])],
    ["must be in range", "ERR_MODEL_CORRUPT", (all, name) => set(all, name, Array(256).fill(2))],
    [
      "must not be negative",
      "ERR_MODEL_CORRUPT",
      (all, name) => set(all, name, Array(256).fill(-2)),
    ],
  ])("%s", async (_, code, change) => {
    const name = "model.layers.0.self_attn.q_proj.g_idx";
    const loading = load(gptq, { config: desc_act, tensors: (all) => change(all, name) });
    await expect(loading).rejects.toMatchObject({ code, message: expect.stringContaining(name) });
  });

  function set(all: Tensors, name: string, numbers: number[]): void {
    all.set(name, groups(Int32Array.from(numbers)));
  }
});

describe("refuses", () => {
  const groups = { group_0: { weights: { num_bits: 8, type: "float" } } };
  it.each<[string, Recipe, Record<string, unknown>, string]>([
    ["another method", gptq, { quant_method: "fp8" }, "fp8"],
    ["another format", packed, { format: "marlin-24" }, "marlin-24"],
    ["three bits", gptq, { bits: 3 }, "3"],
    ["groups of 48", gptq, { group_size: 48 }, "48"],
    ["another AWQ layout", awq, { version: "gemv" }, "gemv"],
    ["floats of 8 bits", packed, { config_groups: groups }, "float"],
  ])("%s as unsupported", async (_, recipe, fields, named) => {
    const loading = load(recipe, { config: (config) => Object.assign(config, fields) });
    await expect(loading).rejects.toMatchObject({
      code: "ERR_MODEL_UNSUPPORTED",
      message: expect.stringContaining(named),
    });
  });

  const module = "model.layers.0.self_attn.q_proj";
  it.each<[string, string, Recipe, (tensors: Tensors) => void]>([
    ["missing scales", "scales", gptq, (t) => t.delete(`${module}.scales`)],
    ["missing zero points", "qzeros", gptq, (t) => t.delete(`${module}.qzeros`)],
    ["missing codes", "q_proj.weight", gptq, (t) => t.delete(`${module}.qweight`)],
    ["codes of floats", "qweight", gptq, edit("qweight", { dtype: "F32" })],
    ["scales of integers", "scales", gptq, edit("scales", { dtype: "U16" })],
    ["scales of other groups", "scales", gptq, edit("scales", { shape: [1, 512] })],
    ["a list of codes", "qweight", gptq, edit("qweight", { shape: [32 * 256] })],
    ["codes of fewer columns", "q_proj", gptq, edit("qweight", { shape: [16, 512] })],
    ["zero points of other rows", "qzeros", gptq, edit("qzeros", { shape: [1, 64] })],
    ["packed codes of bytes", "weight_packed", packed, edit("weight_packed", { dtype: "F32" })],
  ])("%s", async (_, named, recipe, tensors) => {
    await expect(load(recipe, { tensors })).rejects.toMatchObject({
      code: "ERR_TENSOR_MISMATCH",
      message: expect.stringContaining(named),
    });
  });

  function edit(suffix: string, change: Partial<{ dtype: string; shape: number[] }>) {
    return (tensors: Tensors) => {
      const tensor = tensors.get(`${module}.${suffix}`)!;
      tensors.set(`${module}.${suffix}`, { ...tensor, ...change });
    };
  }

  it("zero points that differ where the config says that none do", async () => {
    const tensors = (all: Tensors) => all.get(`${module}.qzeros`)!.data.fill(0x55);
    for (const recipe of [gptq, { ...awq, symmetric: true }]) {
      await expect(load(recipe, { tensors })).rejects.toMatchObject({
        code: "ERR_MODEL_CORRUPT",
        message: expect.stringContaining("symmetrically"),
      });
    }
  });
});

describe("MXFP4", () => {
  const source = fileURLToPath(new URL("../fixtures/quantized/mxfp4", import.meta.url));
  const path = "model.layers.1.mlp.experts.";

  /** Loads the golden model after a change of its tensors. */
  async function loadChanged(change: (tensors: Tensors) => void) {
    const directory = mkdtempSync(join(scratch, "mxfp4-"));
    cpSync(source, directory, { recursive: true });
    const file = join(directory, "model.safetensors");
    const tensors = readTensors(file);
    change(tensors);
    writeTensors(file, tensors);
    return logitsOf(directory, "auto", [1, 2, 3]);
  }

  it("holds values of any exponent", async () => {
    for (const exponent of [0, 1, 60, 121]) {
      const { logits } = await loadChanged((all) =>
        all.get(`${path}down_proj_scales`)!.data.fill(exponent),
      );
      expect(logits.every(Number.isFinite)).toBe(true);
    }
  });

  it.each<[string, string, (tensors: Tensors) => void]>([
    ["scales are missing", "down_proj_scales", (all) => all.delete(`${path}down_proj_scales`)],
    ["codes are missing", "gate_up_proj", (all) => all.delete(`${path}gate_up_proj_blocks`)],
    [
      "scales have another shape",
      "gate_up_proj_scales",
      (all) => all.set(`${path}gate_up_proj_scales`, all.get(`${path}down_proj_scales`)!),
    ],
    [
      "codes have another shape",
      "down_proj_blocks",
      (all) => all.set(`${path}down_proj_blocks`, all.get(`${path}down_proj_scales`)!),
    ],
    [
      "codes have another dtype",
      "down_proj_blocks",
      (all) => {
        const codes = all.get(`${path}down_proj_blocks`)!;
        all.set(`${path}down_proj_blocks`, { ...codes, dtype: "I8" });
      },
    ],
  ])("is refused where %s", async (_, named, change) => {
    await expect(loadChanged(change)).rejects.toMatchObject({
      code: "ERR_TENSOR_MISMATCH",
      message: expect.stringContaining(named),
    });
  });
});
