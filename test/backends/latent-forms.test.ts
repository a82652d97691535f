import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createEngine } from "../../lib/engine/create-engine.js";
import type { EngineOptions } from "../../lib/engine/types.js";
import { emulatedPlugIn, useEmulatedGpu } from "../support/emulated-gpu.js";
import { writeRandomModel } from "../support/random-model.js";

/** Heads as wide as the tensor cores want them. */
const config = {
  architectures: ["DeepseekV2ForCausalLM"],
  vocab_size: 96,
  hidden_size: 64,
  intermediate_size: 64,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  q_lora_rank: 32,
  kv_lora_rank: 64,
  qk_nope_head_dim: 64,
  qk_rope_head_dim: 16,
  v_head_dim: 64,
  n_routed_experts: null,
  max_position_embeddings: 128,
};
const prompt = Array.from({ length: 60 }, (_, i) => (i * i * 31 + 17 * i) % config.vocab_size);

let model = "";
beforeAll(async () => {
  model = await mkdtemp(join(tmpdir(), "pagoda-latent-forms-"));
  await writeRandomModel(model, config);
});
afterAll(() => rm(model, { recursive: true }));

async function logits(options: Omit<EngineOptions, "model">): Promise<Float32Array> {
  const kvCache = { numBlocks: 12, dtype: "bf16" } as const;
  await using engine = await createEngine({ model, threads: 2, kvCache, ...options });
  return await engine.logits(prompt);
}

/** The largest difference, as a part of the largest logit. */
function difference(a: Float32Array, b: Float32Array): number {
  const largest = a.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
  return a.reduce((most, x, i) => Math.max(most, Math.abs(x - b[i]!)), 0) / largest;
}

describe.skipIf(emulatedPlugIn === undefined)("the expanded form on a GPU", () => {
  const device = "cuda:0";

  it.each(["9.0", "8.0"])("of %s is another way to the same logits", async (capability) => {
    useEmulatedGpu(`gpus=${capability}`);
    const absorbed = await logits({ device });
    const expanded = await logits({ device, mlaExpandFrom: 4 });
    expect(expanded).not.toEqual(absorbed);
    expect(difference(absorbed, expanded)).toBeLessThan(0.03);
    expect(difference(await logits({}), expanded)).toBeLessThan(0.03);
  });

  it.each(["9.0", "8.0"])(
    "of %s gives the same bits, however a prompt is cut",
    async (capability) => {
      useEmulatedGpu(`gpus=${capability}`);
      const whole = await logits({ device, mlaExpandFrom: 4 });
      const scheduler = { maxChunkTokens: 23 };
      expect(await logits({ device, mlaExpandFrom: 4, scheduler })).toEqual(whole);
    },
  );

  it("changes nothing for caches that it is not made for", async () => {
    useEmulatedGpu();
    const kvCache = { numBlocks: 12, dtype: "int8" } as const;
    expect(await logits({ device, mlaExpandFrom: 4, kvCache })).toEqual(
      await logits({ device, kvCache }),
    );
  });
});
