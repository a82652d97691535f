import { describe, expect, it } from "vitest";
import { createGraph } from "../../lib/graph/graph.js";
import { activations } from "../../lib/graph/ops.js";
import type { ConfigReader } from "../../lib/loading/config.js";
import { compileModel } from "../../lib/models/model-definition.js";
import { architectures, defineModel } from "../../lib/models/registry.js";
import { configOf, errorOf, type Fields } from "../support/model-config.js";

/** Attributes of the attention steps, one a layer. */
function attentionOf(config: ConfigReader): Readonly<Record<string, number>>[] {
  const graph = createGraph();
  defineModel(config).build(graph);
  return graph.steps.filter((step) => step.op === "attention").map((step) => step.attributes);
}

describe("defineModel", () => {
  it("reports what an engine needs to know", () => {
    expect(defineModel(configOf("hf-tiny/qwen3"))).toMatchObject({
      architecture: "Qwen3ForCausalLM",
      vocabSize: 512,
      hiddenSize: 64,
      numLayers: 3,
      maxPositionEmbeddings: 256,
    });
  });

  it("lists the known architectures when one is unknown", () => {
    const error = errorOf(configOf("hf-tiny/llama", { architectures: ["BloomForCausalLM"] }));
    expect(error).toMatchObject({
      code: "ERR_MODEL_UNSUPPORTED",
      details: { supported: architectures },
    });
    expect(error.message).toContain("BloomForCausalLM");
    for (const name of architectures) expect(error.message).toContain(name);
  });

  it.each([
    ["num_local_experts", "hf-tiny/mistral-swa", { num_local_experts: 8 }],
    ["num_experts", "hf-tiny/qwen3", { num_experts: 8 }],
    ["hidden_act", "hf-tiny/llama", { hidden_act: "relu" }],
    ["__proto__", "hf-tiny/llama", { hidden_act: "__proto__" }],
    ["final_logit_softcapping", "hf-tiny/gemma3", { final_logit_softcapping: 30 }],
    ["use_bidirectional_attention", "hf-tiny/gemma3", { use_bidirectional_attention: true }],
    [
      "chunked_attention",
      "hf-tiny/qwen2",
      { layer_types: ["full_attention", "full_attention", "chunked_attention"] },
    ],
    ["dynamic", "hf-tiny/phi3", { rope_parameters: { rope_type: "dynamic", rope_theta: 1e4 } }],
    ["swiglu_limit", "hf-tiny/gpt-oss", { swiglu_limit: 10 }],
    ["n_routed_experts", "hf-tiny/mixtral", { n_routed_experts: 8 }],
    ["linear", "hf-tiny/phi3", { rope_parameters: { rope_type: "linear", factor: 2 } }],
  ])("refuses %s as unsupported", (name, model, change) => {
    const error = errorOf(configOf(model, change));
    expect(error.code).toBe("ERR_MODEL_UNSUPPORTED");
    expect(error.message).toContain(name);
  });

  const bad: unknown[] = [
    undefined,
    null,
    0,
    -1,
    1.5,
    NaN,
    Infinity,
    2 ** 53,
    "64",
    true,
    [64],
    {},
  ];
  const required = [
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
  ];

  it.each(required)("refuses every bad %s", (field) => {
    for (const value of bad) {
      expect(errorOf(configOf("hf-tiny/llama", { [field]: value })), String(value)).toMatchObject({
        code: "ERR_CONFIG_INVALID",
        details: { field },
      });
    }
  });

  it.each([
    ["num_key_value_heads", 3],
    ["num_key_value_heads", 8],
    ["num_key_value_heads", 0],
    ["head_dim", 0],
    ["head_dim", 1024],
    ["rms_norm_eps", 0],
    ["rms_norm_eps", "1e-5"],
    ["tie_word_embeddings", 1],
    ["attention_bias", "yes"],
    ["hidden_act", 3],
  ])("refuses %s = %s", (field, value) => {
    expect(errorOf(configOf("hf-tiny/llama", { [field]: value }))).toMatchObject({
      code: "ERR_CONFIG_INVALID",
      details: { field },
    });
  });

  it("refuses heads that do not divide hidden_size when there is no head_dim", () => {
    const change = { head_dim: undefined, num_attention_heads: 3, num_key_value_heads: 1 };
    expect(errorOf(configOf("hf-tiny/llama", change))).toMatchObject({
      code: "ERR_CONFIG_INVALID",
      details: { field: "num_attention_heads" },
    });
  });

  it("takes the defaults of Hugging Face transformers for fields that are not there", () => {
    const step = (
      config: ConfigReader,
      op: string,
    ): Readonly<Record<string, number>> | undefined => {
      const graph = createGraph();
      defineModel(config).build(graph);
      return graph.steps.find((step) => step.op === op)?.attributes;
    };
    const without = (name: string, ...fields: string[]): ConfigReader => {
      return configOf(name, Object.fromEntries(fields.map((field) => [field, undefined])));
    };
    expect(step(without("hf-tiny/mistral-swa", "sliding_window"), "attention")).toMatchObject({
      slidingWindow: 4096,
    });
    expect(step(without("hf-tiny/phi3", "sliding_window"), "attention")).toMatchObject({
      slidingWindow: 0,
    });
    expect(step(without("hf-tiny/phi3", "rms_norm_eps"), "rmsNorm")).toMatchObject({ eps: 1e-5 });
    expect(step(without("hf-tiny/llama", "hidden_act"), "gatedActivation")).toEqual({
      activation: activations.silu,
    });
    expect(step(without("hf-tiny/gemma3", "hidden_activation"), "gatedActivation")).toEqual({
      activation: activations.geluTanh,
    });
  });

  it("takes all heads as KV heads where the field is null", () => {
    const graph = createGraph();
    defineModel(configOf("hf-tiny/llama", { num_key_value_heads: null })).build(graph);
    expect(graph.kvLayers[0]).toEqual({ numKvHeads: 4, headDim: 16 });
  });
});

describe("sliding windows", () => {
  const windows = (config: ConfigReader): (number | undefined)[] =>
    attentionOf(config).map((a) => a["slidingWindow"]);

  it("of Mistral are in all layers or in none", () => {
    expect(windows(configOf("hf-tiny/mistral-swa"))).toEqual([16, 16, 16]);
    expect(windows(configOf("hf-tiny/mistral-swa", { sliding_window: null }))).toEqual([0, 0, 0]);
  });

  it("of Qwen follow use_sliding_window and max_window_layers, or layer_types", () => {
    const old = { layer_types: undefined, sliding_window: 8 };
    expect(
      windows(
        configOf("hf-tiny/qwen2", { ...old, use_sliding_window: false, max_window_layers: 1 }),
      ),
    ).toEqual([0, 0, 0]);
    expect(
      windows(
        configOf("hf-tiny/qwen2", { ...old, use_sliding_window: true, max_window_layers: 1 }),
      ),
    ).toEqual([0, 8, 8]);
    const layer_types = ["sliding_attention", "full_attention", "sliding_attention"];
    expect(windows(configOf("hf-tiny/qwen3", { layer_types, sliding_window: 8 }))).toEqual([
      8, 0, 8,
    ]);
  });

  it("of Gemma 3 follow layer_types or sliding_window_pattern", () => {
    expect(windows(configOf("hf-tiny/gemma3"))).toEqual([16, 16, 16, 16, 16, 0]);
    expect(windows(configOf("hf-extra/gemma3-old-keys"))).toEqual([6, 6, 0]);
  });

  it("must be given where a layer has one, and layer_types must name every layer", () => {
    const layer_types = ["sliding_attention", "full_attention", "full_attention"];
    expect(errorOf(configOf("hf-tiny/qwen2", { layer_types, sliding_window: null }))).toMatchObject(
      {
        code: "ERR_CONFIG_INVALID",
        details: { field: "sliding_window" },
      },
    );
    expect(errorOf(configOf("hf-tiny/qwen2", { layer_types: ["full_attention"] }))).toMatchObject({
      code: "ERR_CONFIG_INVALID",
      details: { field: "layer_types" },
    });
  });
});

describe("Gemma 3", () => {
  const scaleOf = (change: Fields): number | undefined => {
    const graph = createGraph();
    defineModel(configOf("hf-tiny/gemma3", { ...change, hidden_size: 1152, head_dim: 16 })).build(
      graph,
    );
    return graph.steps.find((step) => step.op === "embed")?.attributes["scale"];
  };

  it("scales embeddings by sqrt(hidden_size) in the precision of the checkpoint", () => {
    expect(scaleOf({ dtype: "float32" })).toBe(Math.fround(Math.sqrt(1152))); // 33.94
    expect(scaleOf({ dtype: "bfloat16" })).toBe(34);
    expect(scaleOf({ dtype: undefined, torch_dtype: "bfloat16" })).toBe(34);
    expect(scaleOf({ dtype: "float16" })).toBe(33.9375);
  });

  it("caps attention scores and scales them by query_pre_attn_scalar", () => {
    const [first] = attentionOf(
      configOf("hf-tiny/gemma3", { attn_logit_softcapping: 50, query_pre_attn_scalar: 64 }),
    );
    expect(first).toMatchObject({ softcap: 50, scale: 1 / 8 });
  });
});

describe("mixtures of experts", () => {
  it.each([
    ["num_local_experts", "hf-tiny/mixtral", 0],
    ["num_local_experts", "hf-tiny/gpt-oss", 4097],
    ["num_experts", "hf-tiny/qwen3-moe", 1.5],
    ["num_experts_per_tok", "hf-tiny/mixtral", 0],
    ["num_experts_per_tok", "hf-tiny/qwen3-moe", 1000],
    ["num_experts_per_tok", "hf-tiny/gpt-oss", "2"],
    ["moe_intermediate_size", "hf-tiny/qwen3-moe", 0],
    ["decoder_sparse_step", "hf-tiny/qwen3-moe", 0],
    ["mlp_only_layers", "hf-tiny/qwen3-moe", "0"],
    ["norm_topk_prob", "hf-tiny/qwen3-moe", 1],
    ["swiglu_limit", "hf-tiny/gpt-oss", "7"],
  ])("refuse %s of %s = %s", (field, model, value) => {
    expect(errorOf(configOf(model, { [field]: value }))).toMatchObject({
      code: "ERR_CONFIG_INVALID",
      details: { field },
    });
  });

  it("are in the layers that Qwen3-MoE names", () => {
    const layersOf = (change: Fields): string[] => {
      const graph = createGraph();
      defineModel(configOf("hf-tiny/qwen3-moe", change)).build(graph);
      return graph.steps.filter(({ op }) => op === "experts").map(({ name }) => name);
    };
    const all = layersOf({ mlp_only_layers: [], decoder_sparse_step: 1 });
    expect(all[0]).toContain("layers.0.");
    expect(layersOf({ mlp_only_layers: [0], decoder_sparse_step: 1 })).toEqual(all.slice(1));
    expect(layersOf({ mlp_only_layers: [], decoder_sparse_step: 2 })).toEqual(
      all.filter((_, layer) => layer % 2 === 1),
    );
  });
});

describe("graphs", () => {
  it("of a thousand layers compile fast", () => {
    const model = defineModel(configOf("hf-tiny/llama", { num_hidden_layers: 1000 }));
    const start = performance.now();
    const plan = compileModel(model, { maxTokens: 16, maxOutputs: 4, dtype: "bf16" });
    expect(plan.kvLayers).toHaveLength(1000);
    expect(performance.now() - start).toBeLessThan(3000);
  });
});
