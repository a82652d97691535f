import { cp, mkdtemp, open, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createEngine, planMemory } from "pagoda-llm";
import { expect, onTestFinished, test } from "vitest";
import { runCli } from "../support/cli.js";
import { demoModel } from "../support/demo.js";

test("tells what the engine tells after loading", async () => {
  const result = await runCli(["inspect", demoModel, "--json"]);
  expect([result.code, result.stderr]).toEqual([0, ""]);
  const report = JSON.parse(result.stdout);
  const engine = await createEngine({ model: demoModel });
  const { model, kvCache } = engine.info;
  await engine.close();
  expect(report).toMatchObject({
    name: model.name,
    path: demoModel,
    architecture: model.architecture,
    parameters: model.parameters,
    vocabSize: model.vocabSize,
    contextLength: model.maxModelLen,
    hasTokenizer: model.hasTokenizer,
    hasChatTemplate: model.hasChatTemplate,
    weights: { dtype: model.dtype },
    kvCache: { dtype: kvCache.dtype },
  });
  const { bytesPerToken, bytesPer1kTokens } = report.kvCache;
  expect(bytesPerToken * kvCache.blockSize * kvCache.numBlocks).toBe(kvCache.memory);
  expect(bytesPer1kTokens).toBe(1024 * bytesPerToken);
  const memory = await planMemory({ model: demoModel });
  expect(bytesPerToken).toBe(memory.kvCache.bytesPerToken);
  expect(report.arenaBytes).toBe(memory.workspace);
  expect(report.plan).toMatch(/^plan: tokens <= 2048/);
});

test("the text has the same facts, then the plan", async () => {
  const { stdout, code } = await runCli(["inspect", demoModel, "--dtype", "f32"]);
  expect(code).toBe(0);
  expect(stdout).toMatch(/^architecture +LlamaForCausalLM$/m);
  expect(stdout).toMatch(/^context length +1024 tokens$/m);
  expect(stdout).toMatch(/^weights +13\.\d MB as f32$/m);
  expect(stdout).toMatch(/^KV cache +4\.\d+ KB a token as f32$/m);
  expect(stdout).toMatch(/^ +layers\.7\.mlp\.down_proj: linear/m);
  expect(stdout.indexOf("plan: ")).toBeGreaterThan(stdout.indexOf("KV cache"));
});

/** A Llama with the shapes of 70 billion parameters, whose weight file is one large hole. */
async function hugeModel(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "pagoda-huge-"));
  onTestFinished(() => rm(folder, { recursive: true }));
  await cp(demoModel, folder, { recursive: true });
  const config = JSON.parse(await readFile(join(folder, "config.json"), "utf8"));
  const c = {
    ...config,
    hidden_size: 8192,
    intermediate_size: 28_672,
    num_hidden_layers: 80,
    num_attention_heads: 64,
    num_key_value_heads: 8,
    head_dim: 128,
    vocab_size: 128_256,
    tie_word_embeddings: false,
  };
  await writeFile(join(folder, "config.json"), JSON.stringify(c));
  const shapes: Record<string, number[]> = {
    "model.embed_tokens.weight": [128_256, 8192],
    "model.norm.weight": [8192],
    "lm_head.weight": [128_256, 8192],
  };
  for (let i = 0; i < c.num_hidden_layers; i++) {
    const layer = `model.layers.${i}.`;
    shapes[`${layer}input_layernorm.weight`] = [8192];
    shapes[`${layer}post_attention_layernorm.weight`] = [8192];
    shapes[`${layer}self_attn.q_proj.weight`] = [8192, 8192];
    shapes[`${layer}self_attn.k_proj.weight`] = [1024, 8192];
    shapes[`${layer}self_attn.v_proj.weight`] = [1024, 8192];
    shapes[`${layer}self_attn.o_proj.weight`] = [8192, 8192];
    shapes[`${layer}mlp.gate_proj.weight`] = [28_672, 8192];
    shapes[`${layer}mlp.up_proj.weight`] = [28_672, 8192];
    shapes[`${layer}mlp.down_proj.weight`] = [8192, 28_672];
  }
  let offset = 0;
  const header: Record<string, object> = {};
  for (const [name, shape] of Object.entries(shapes)) {
    const end = offset + 2 * shape.reduce((a, b) => a * b);
    header[name] = { dtype: "BF16", shape, data_offsets: [offset, end] };
    offset = end;
  }
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  const file = await open(join(folder, "model.safetensors"), "w");
  await file.write(Buffer.concat([length, text]));
  await file.truncate(8 + text.length + offset);
  await file.close();
  return folder;
}

test("the memory of a model of 141 GB is planned from its header alone", async () => {
  const model = await hugeModel();
  const begin = performance.now();
  const plan = await planMemory({ model, kvCache: { memory: 2 ** 33 } });
  expect(performance.now() - begin).toBeLessThan(5000);
  expect(plan.weights / 141.1e9).toBeCloseTo(1, 2);
  expect(plan.kvCache.bytesPerToken).toBe(2 * 80 * 8 * 128 * 2);
  const block = plan.kvCache.blockSize * plan.kvCache.bytesPerToken;
  expect(plan.kvCache.memory).toBe(Math.floor(2 ** 33 / block) * block);
  expect(plan.fits).toBe(plan.total <= plan.available);
});

test("a model of 141 GB is inspected from its header alone", async () => {
  const folder = await hugeModel();
  const begin = performance.now();
  const result = await runCli(["inspect", folder, "--json"]);
  expect([result.code, result.stderr]).toEqual([0, ""]);
  expect(performance.now() - begin).toBeLessThan(5000);
  const report = JSON.parse(result.stdout);
  expect(report.parameters).toBe(70_553_706_496);
  expect(report.weights.dtype).toBe("bf16");
  expect(report.weights.bytes / 141.1e9).toBeCloseTo(1, 2);
  expect(report.kvCache.bytesPerToken).toBe(2 * 80 * 8 * 128 * 2);
  expect(report.tensors).toEqual([{ dtype: "BF16", count: 723, parameters: 70_553_706_496 }]);
});

test("a tensor that is missing is named", async () => {
  const folder = await mkdtemp(join(tmpdir(), "pagoda-"));
  onTestFinished(() => rm(folder, { recursive: true }));
  await cp(demoModel, folder, { recursive: true });
  const config = JSON.parse(await readFile(join(folder, "config.json"), "utf8"));
  await writeFile(join(folder, "config.json"), JSON.stringify({ ...config, num_hidden_layers: 9 }));
  const result = await runCli(["inspect", folder]);
  expect(result.code).toBe(1);
  expect(result.stderr).toMatch(/^pagoda: .*layers\.8\..*\(ERR_TENSOR_MISMATCH\)\n$/);
});
