import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createEngine, planMemory, type EngineOptions } from "pagoda-llm";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { inspectModel } from "../../lib/cli/model-report.js";
import { goldenDirectory, loadGolden, type GoldenCase } from "../support/golden.js";
import { quantizeDirectory, readTensors, writeTensors } from "../support/quantized-directory.js";
import { writeRandomModel } from "../support/random-model.js";

const v3 = goldenDirectory("hf-tiny/deepseek-v3");
const small = { threads: 2, kvCache: { numBlocks: 40 } };

let scratch = "";
beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), "pagoda-deepseek-"));
});
afterAll(() => rm(scratch, { recursive: true }));

async function expectGolden(model: string, cases: readonly GoldenCase[]): Promise<void> {
  await using engine = await createEngine({ model, ...small });
  for (const { ids, greedy } of cases) {
    const maxTokens = greedy.length - ids.length;
    const request = { prompt: ids, maxTokens, temperature: 0, ignoreEos: true };
    expect([...ids, ...(await engine.generate(request)).tokenIds]).toEqual(greedy);
  }
}

describe.each([
  "hf-tiny/deepseek-v2",
  "hf-tiny/deepseek-v3",
  "hf-tiny/deepseek-v3-yarn",
  "hf-extra/deepseek-v2-groups",
  "hf-extra/deepseek-v3-halves",
])("%s", (name) => {
  it("continues as Hugging Face transformers does", async () => {
    await expectGolden(goldenDirectory(name), (await loadGolden(name)).cases);
  });
});

describe("memory", () => {
  // Latents of 32 and rope keys of 8, in 3 layers.
  it.each([
    ["f32", 3 * 40 * 4],
    ["bf16", 3 * 40 * 2],
    ["int8", 3 * (40 + 2 * 4)],
  ] as const)("of a token in %s is a latent and a rope key a layer", async (dtype, bytes) => {
    const options: EngineOptions = { model: v3, threads: 2, kvCache: { numBlocks: 10, dtype } };
    const plan = await planMemory(options);
    expect(plan.kvCache).toMatchObject({ bytesPerToken: bytes, memory: 160 * bytes });
    await using engine = await createEngine(options);
    expect(engine.info.kvCache).toEqual({
      numBlocks: 10,
      blockSize: 16,
      dtype,
      memory: 160 * bytes,
    });
    expect(engine.info.weightMemory).toBe(plan.weights);
  });

  it("is what `pagoda inspect` says", async () => {
    const report = await inspectModel(v3, "auto");
    expect(report).toMatchObject({
      architecture: "DeepseekV3ForCausalLM",
      numLayers: 3,
      kvCache: { dtype: "f32", bytesPerToken: 480 },
    });
    await using engine = await createEngine({ model: v3, ...small });
    expect(engine.info.model.parameters).toBe(report.parameters);
  });
});

describe("checkpoints", () => {
  it("may have layers that predict further tokens", async () => {
    const directory = join(scratch, "further-layers");
    await cp(v3, directory, { recursive: true });
    const index = { weight_map: {} as Record<string, string> };
    const { checkpoint, cases } = await loadGolden("hf-tiny/deepseek-v3");
    for (const name of checkpoint.tensors.keys()) index.weight_map[name] = "model.safetensors";
    const nan = { dtype: "F32", shape: [2, 3], data: new Uint8Array(24).fill(0xff) };
    const further = ["eh_proj", "enorm", "shared_head.head", "mlp.experts.0.up_proj"].map(
      (name) => `model.layers.3.${name}.weight`,
    );
    for (const name of further) index.weight_map[name] = "further.safetensors";
    const tensors = new Map(further.map((name) => [name, nan]));
    writeTensors(join(directory, "further.safetensors"), tensors);
    await writeFile(join(directory, "model.safetensors.index.json"), JSON.stringify(index));
    await expectGolden(directory, cases);
  });

  it("in fp8 are refused with the reason", async () => {
    const directory = join(scratch, "fp8");
    await cp(v3, directory, { recursive: true });
    const path = join(directory, "config.json");
    const config = JSON.parse(await readFile(path, "utf8")) as object;
    const quantization_config = {
      activation_scheme: "dynamic",
      fmt: "e4m3",
      quant_method: "fp8",
      weight_block_size: [128, 128],
    };
    await writeFile(path, JSON.stringify({ ...config, quantization_config }));
    await expect(createEngine({ model: directory })).rejects.toMatchObject({
      code: "ERR_MODEL_UNSUPPORTED",
      message: expect.stringContaining('quant_method` "fp8" is not supported') as unknown,
      details: { field: "quantization_config.quant_method", value: "fp8" },
    });
  });

  it("with a kv_b_proj of another shape are refused", async () => {
    const directory = join(scratch, "shape");
    await cp(v3, directory, { recursive: true });
    const path = join(directory, "config.json");
    const config = JSON.parse(await readFile(path, "utf8")) as object;
    await writeFile(path, JSON.stringify({ ...config, v_head_dim: 8 }));
    await expect(createEngine({ model: directory })).rejects.toMatchObject({
      code: "ERR_TENSOR_MISMATCH",
      details: { tensor: "model.layers.0.self_attn.kv_b_proj.weight", expected: "shape [96, 32]" },
    });
  });
});

describe("a session over latents", () => {
  it.each(["f32", "bf16", "int8"] as const)("in %s is saved and restored", async (dtype) => {
    const options = { model: v3, threads: 2, kvCache: { numBlocks: 40, dtype } };
    const { ids } = (await loadGolden("hf-tiny/deepseek-v3")).cases[0]!;
    const next = { prompt: [7, 8, 9], maxTokens: 12, temperature: 0, ignoreEos: true, logprobs: 3 };
    await using engine = await createEngine(options);
    await using session = engine.session();
    await session.generate({ prompt: ids, maxTokens: 5, temperature: 0, ignoreEos: true });
    const file = join(scratch, `${dtype}.session`);
    await session.save(file);
    await using fork = session.fork();
    const { logprobs } = await session.generate(next);
    expect((await fork.generate(next)).logprobs).toEqual(logprobs);
    await using other = await createEngine(options);
    await using restored = await other.restoreSession(file);
    const again = await restored.generate(next);
    expect(again.logprobs).toEqual(logprobs);
    expect(again.usage.cachedTokens).toBeGreaterThan(ids.length - 16);
  });
});

describe("quantised", () => {
  /** Heads, latents and rope keys of the published sizes, few of them. */
  const config = {
    architectures: ["DeepseekV3ForCausalLM"],
    vocab_size: 320,
    hidden_size: 256,
    intermediate_size: 512,
    moe_intermediate_size: 256,
    num_hidden_layers: 3,
    num_attention_heads: 4,
    q_lora_rank: 256,
    n_routed_experts: 8,
    num_experts_per_tok: 2,
    n_group: 2,
    topk_group: 1,
    first_k_dense_replace: 1,
    max_position_embeddings: 256,
  };
  const prompt = Array.from({ length: 96 }, (_, i) => (i * i * 31 + 17 * i) % 320);
  let model = "";
  let expected: Float32Array = new Float32Array();

  async function logitsOf(
    options: Omit<EngineOptions, "model">,
    path = model,
  ): Promise<Float32Array> {
    await using engine = await createEngine({ model: path, threads: 2, ...options });
    return await engine.logits(prompt);
  }

  beforeAll(async () => {
    model = await mkdtemp(join(scratch, "random-"));
    await writeRandomModel(model, config);
    expected = await logitsOf({ dtype: "f32" });
  });

  /**
   * Root mean square of the difference, in parts of that of the logits; of the median token, since one whose two best experts
   * are nearly as good may be given another one, and is then far off.
   */
  function errorOf(actual: Float32Array, expected: Float32Array): number {
    expect(actual.length).toBe(expected.length);
    const square = (values: Float32Array): number => values.reduce((sum, x) => sum + x * x, 0);
    const errors = prompt.map((_, token) => {
      const row = (values: Float32Array): Float32Array =>
        values.subarray(token * config.vocab_size, (token + 1) * config.vocab_size);
      const [a, b] = [row(actual), row(expected)];
      return Math.sqrt(square(a.map((x, i) => x - b[i]!)) / square(b));
    });
    return errors.sort((a, b) => a - b)[errors.length / 2]!;
  }

  it("weights take less memory, those made of kv_b_proj included", async () => {
    const bytes: Record<string, number> = {};
    for (const dtype of ["f32", "bf16", "q8", "q4"] as const) {
      bytes[dtype] = (await inspectModel(model, dtype)).weights.bytes;
    }
    expect(bytes["bf16"]! / bytes["f32"]!).toBeCloseTo(1 / 2, 2);
    expect(bytes["q8"]! / bytes["f32"]!).toBeCloseTo(34 / 32 / 4, 2);
    expect(bytes["q4"]! / bytes["f32"]!).toBeLessThan(0.17);
  });

  it.each([
    { dtype: "f32", kvCache: { dtype: "f32" } },
    { dtype: "bf16", kvCache: { dtype: "bf16" } },
    { dtype: "q8", kvCache: { dtype: "int8" } },
    { dtype: "q4", kvCache: { dtype: "f32" } },
  ] as const)("%o has the same bits in chunks", async (options) => {
    const chunked = { ...options, scheduler: { maxBatchTokens: 7, maxSequences: 4 } };
    expect(await logitsOf(chunked)).toEqual(await logitsOf(options));
  });

  it("linears of an AWQ directory are read, but kv_b_proj must be whole", async () => {
    const [quantized, plain] = [join(scratch, "awq"), join(scratch, "plain")];
    const recipe = {
      method: "awq",
      bits: 4,
      groupSize: 64,
      symmetric: false,
      scaleDtype: "F16",
    } as const;
    quantizeDirectory(model, recipe, { quantized, plain });
    await expect(createEngine({ model: quantized })).rejects.toMatchObject({
      code: "ERR_TENSOR_MISMATCH",
      details: { tensor: "model.layers.0.self_attn.kv_b_proj.weight" },
    });
    const whole = [...readTensors(join(model, "model.safetensors"))].filter(([name]) =>
      name.includes("kv_b_proj"),
    );
    for (const directory of [quantized, plain]) {
      const path = join(directory, "model.safetensors");
      const others = [...readTensors(path)].filter(([name]) => !name.includes("kv_b_proj"));
      writeTensors(path, new Map([...others, ...whole]));
    }
    const options = { dtype: "f32" } as const;
    const numbers = await logitsOf(options, plain);
    // Products of zero points and scales are rounded to f16.
    expect(errorOf(await logitsOf(options, quantized), numbers)).toBeLessThan(0.01);
  });

  // Less than twice what docs/architecture.md says.
  it.each([
    [{ dtype: "bf16", kvCache: { dtype: "f32" } }, 0.009],
    [{ dtype: "f32", kvCache: { dtype: "bf16" } }, 0.003],
    [{ dtype: "f32", kvCache: { dtype: "int8" } }, 0.012],
    [{ dtype: "q8", kvCache: { dtype: "f32" } }, 0.045],
    [{ dtype: "q8", kvCache: { dtype: "int8" } }, 0.045],
    [{ dtype: "q4", kvCache: { dtype: "f32" } }, 0.35],
  ] as const)("%o has logits near those of float32", async (options, bound) => {
    expect(errorOf(await logitsOf(options), expected)).toBeLessThan(bound);
  });
});
