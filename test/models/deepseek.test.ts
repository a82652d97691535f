import { describe, expect, it } from "vitest";
import { createGraph, type GraphStep } from "../../lib/graph/graph.js";
import type { GraphWeight } from "../../lib/graph/weight-table.js";
import { ConfigReader } from "../../lib/loading/config.js";
import { defineModel } from "../../lib/models/registry.js";
import { compileModel } from "../../lib/models/model-definition.js";
import { configOf, errorOf, type Fields } from "../support/model-config.js";

interface Built {
  readonly steps: readonly GraphStep[];
  readonly weights: readonly GraphWeight[];
}

function build(config: ConfigReader): Built {
  const graph = createGraph();
  defineModel(config).build(graph);
  return { steps: graph.steps, weights: graph.weights.all };
}

const stepsOf = (op: string, { steps }: Built): readonly GraphStep[] =>
  steps.filter((step) => step.op === op);

const v2 = "hf-tiny/deepseek-v2";
const v3 = "hf-tiny/deepseek-v3";
const halves = "hf-extra/deepseek-v3-halves";

/** Dimensions of the published models, as their config.json has them. */
const attention = {
  kv_lora_rank: 512,
  qk_nope_head_dim: 128,
  qk_rope_head_dim: 64,
  v_head_dim: 128,
  rope_theta: 10_000,
};
const yarn = {
  type: "yarn",
  factor: 40,
  original_max_position_embeddings: 4096,
  beta_fast: 32,
  beta_slow: 1,
};
const lite: Fields = {
  ...attention,
  architectures: ["DeepseekV2ForCausalLM"],
  vocab_size: 102_400,
  hidden_size: 2048,
  intermediate_size: 10_944,
  moe_intermediate_size: 1408,
  num_hidden_layers: 27,
  num_attention_heads: 16,
  num_key_value_heads: 16,
  q_lora_rank: null,
  n_routed_experts: 64,
  n_shared_experts: 2,
  num_experts_per_tok: 6,
  first_k_dense_replace: 1,
  moe_layer_freq: 1,
  n_group: 1,
  topk_group: 1,
  topk_method: "greedy",
  scoring_func: "softmax",
  norm_topk_prob: false,
  routed_scaling_factor: 1,
  max_position_embeddings: 163_840,
  rope_scaling: { ...yarn, mscale: 0.707, mscale_all_dim: 0.707 }, // oxlint-disable-line approx-constant
};
const large: Fields = {
  ...attention,
  architectures: ["DeepseekV3ForCausalLM"],
  vocab_size: 129_280,
  hidden_size: 7168,
  intermediate_size: 18_432,
  moe_intermediate_size: 2048,
  num_hidden_layers: 61,
  num_nextn_predict_layers: 1,
  num_attention_heads: 128,
  num_key_value_heads: 128,
  q_lora_rank: 1536,
  n_routed_experts: 256,
  n_shared_experts: 1,
  num_experts_per_tok: 8,
  first_k_dense_replace: 3,
  moe_layer_freq: 1,
  n_group: 8,
  topk_group: 4,
  topk_method: "noaux_tc",
  scoring_func: "sigmoid",
  norm_topk_prob: true,
  routed_scaling_factor: 2.5,
  max_position_embeddings: 163_840,
  rope_scaling: { ...yarn, mscale: 1, mscale_all_dim: 1 },
};

describe("the published models", () => {
  it.each([
    ["DeepSeek-V2-Lite", lite, 15_706_484_224, 0.1147214],
    ["DeepSeek-V3", large, 671_026_419_200, 0.1352338],
  ] as const)("%s has its parameters and its softmax scale", (_, fields, parameters, scale) => {
    const built = build(new ConfigReader(fields, "config.json"));
    const loaded = built.weights.filter(({ source }) => "parts" in source);
    expect(loaded.reduce((sum, { rows, cols }) => sum + rows * cols, 0)).toBe(parameters);
    const layers = stepsOf("mlaAttention", built);
    expect(layers).toHaveLength(fields["num_hidden_layers"] as number);
    for (const { attributes } of layers) expect(attributes["scale"]).toBeCloseTo(scale, 6);
    expect(built.steps.find(({ op }) => op === "ropeTable")!.attributes).toEqual({ scaling: 1 });
  });

  it("cache 576 numbers a token and layer, in one KV group", () => {
    const model = defineModel(new ConfigReader(large, "config.json"));
    const plan = compileModel(model, { maxTokens: 16, maxOutputs: 4, dtype: "bf16" });
    expect(plan.kvGroups).toEqual([{ slidingWindow: 0 }]);
    expect(plan.kvLayers).toHaveLength(61);
    expect(plan.kvLayers[60]).toEqual({
      numKvHeads: 1,
      headDim: 576,
      latentDim: 512,
      group: 0,
      slot: 60,
    });
  });
});

describe("fields", () => {
  it.each([
    ["kv_lora_rank", v2, 0],
    ["kv_lora_rank", v3, 33],
    ["kv_lora_rank", v3, 1018],
    ["kv_lora_rank", v3, "32"],
    ["q_lora_rank", v3, 0],
    ["q_lora_rank", v3, true],
    ["qk_nope_head_dim", v2, 0],
    ["qk_nope_head_dim", v2, 513],
    ["qk_rope_head_dim", v2, 0],
    ["qk_rope_head_dim", v3, 7],
    ["qk_rope_head_dim", v3, 8.5],
    ["v_head_dim", v2, -16],
    ["v_head_dim", v2, 1024],
    ["attention_bias", v3, 1],
    ["mlp_bias", v2, "no"],
    ["rope_interleave", v3, 1],
    ["rope_interleave", v3, "yes"],
    ["n_routed_experts", v2, 0],
    ["n_routed_experts", v3, 4097],
    ["n_routed_experts", v3, "8"],
    ["n_shared_experts", v2, -1],
    ["n_shared_experts", v2, 1.5],
    ["num_experts_per_tok", v2, undefined],
    ["num_experts_per_tok", v2, 9],
    ["num_experts_per_tok", v3, 0],
    ["num_experts_per_tok", v3, 5],
    ["moe_intermediate_size", v3, 0],
    ["first_k_dense_replace", v3, -1],
    ["moe_layer_freq", v3, 0],
    ["n_group", v3, 3],
    ["n_group", v3, 0],
    ["n_group", v3, 8],
    ["topk_group", v3, 0],
    ["topk_group", v3, 5],
    ["topk_method", v3, 1],
    ["scoring_func", v3, false],
    ["norm_topk_prob", v3, 1],
    ["routed_scaling_factor", v3, "2.5"],
    ["hidden_act", v2, 3],
  ])("%s of %s cannot be %s", (field, model, value) => {
    const error = errorOf(configOf(model, { [field]: value }));
    expect(error).toMatchObject({ code: "ERR_CONFIG_INVALID", details: { field } });
  });

  it.each([
    ["mscale", -1],
    ["mscale_all_dim", -1],
    ["mscale_all_dim", "1"],
    ["factor", 0],
    ["beta_fast", 0],
  ])("rope_parameters.%s cannot be %s", (field, value) => {
    const config = configOf("hf-tiny/deepseek-v3-yarn", {
      rope_parameters: { ...yarnParameters(), [field]: value },
    });
    const details = { field: `rope_parameters.${field}` };
    expect(errorOf(config)).toMatchObject({ code: "ERR_CONFIG_INVALID", details });
  });

  it.each([
    ["topk_method", "aux"],
    ["topk_method", "toString"],
    ["scoring_func", "sqrtsoftplus"],
    ["hidden_act", "relu"],
    ["num_experts", 8],
    ["num_local_experts", 8],
  ])("%s = %s is not supported", (field, value) => {
    const error = errorOf(configOf(v3, { [field]: value }));
    expect(error.code).toBe("ERR_MODEL_UNSUPPORTED");
    expect(error.message).toContain(field);
  });

  it("have the defaults of Hugging Face transformers", () => {
    const config = (name: string, fields: Fields): ConfigReader => {
      const { architectures, num_experts_per_tok } = fields;
      const less = { hidden_size: 64, intermediate_size: 96, num_hidden_layers: 4, vocab_size: 99 };
      const more = { num_attention_heads: 2, max_position_embeddings: 64 };
      return new ConfigReader({ architectures, ...less, ...more, num_experts_per_tok }, name);
    };
    const published = build(config("V2", lite));
    expect(stepsOf("route", published)).toHaveLength(4);
    expect(stepsOf("route", published)[0]!.attributes).toMatchObject({
      topK: 6,
      scoring: 0,
      normalize: 0,
      scale: 1,
      numGroups: 1,
    });
    const other = build(config("V3", { architectures: large["architectures"] }));
    expect(stepsOf("route", other)).toHaveLength(1);
    expect(stepsOf("route", other)[0]!.attributes).toMatchObject({
      topK: 8,
      scoring: 1,
      normalize: 1,
      scale: 2.5,
      numGroups: 8,
      topGroups: 4,
      groupScore: 1,
    });
    for (const { weights } of [published, other]) {
      expect(weights.find(({ name }) => name.endsWith("q_a_layernorm"))!.cols).toBe(1536);
      expect(weights.find(({ name }) => name.endsWith("kv_a_layernorm"))!.cols).toBe(512);
    }
  });
});

describe("attention", () => {
  const names = ({ weights }: Built): string[] =>
    weights.filter(({ name }) => name.includes("layers.0.self_attn.")).map(({ name }) => name);
  const ofLayer = (...rest: string[]): string[] => rest.map((name) => `layers.0.self_attn.${name}`);

  it("is one linear for all that is made of the hidden state, unless only some have a bias", () => {
    const shared = ["kv_a_layernorm", "kv_b_proj.key_up", "kv_b_proj.value_up", "o_proj"];
    expect(new Set(names(build(configOf(v2))))).toEqual(new Set(ofLayer("qkv_a_proj", ...shared)));
    expect(new Set(names(build(configOf(v3))))).toEqual(
      new Set(ofLayer("qkv_a_proj", "q_a_layernorm", "q_b_proj", ...shared)),
    );
    expect(new Set(names(build(configOf(v2, { attention_bias: true }))))).toEqual(
      new Set(
        ofLayer(
          ...["q_proj", "kv_a_proj_with_mqa", "kv_a_proj_with_mqa.bias", "o_proj.bias", ...shared],
        ),
      ),
    );
    expect(names(build(configOf(v3, { attention_bias: true })))).toContain(
      "layers.0.self_attn.qkv_a_proj.bias",
    );
  });

  it("rotates neighbours, or halves where `rope_interleave` is false", () => {
    const interleaved = (config: ConfigReader): number[] =>
      stepsOf("rope", build(config)).map(({ attributes }) => attributes["interleaved"]!);
    expect(interleaved(configOf(v2))).toEqual([1, 1, 1, 1, 1, 1]);
    expect(interleaved(configOf(v3, { rope_interleave: undefined }))).toEqual(Array(6).fill(1));
    expect(interleaved(configOf(v3, { rope_interleave: false }))).toEqual(Array(6).fill(0));
  });

  it("has a scale without mscale_all_dim, too, and norms inside of an epsilon of their own", () => {
    const { mscale_all_dim: _, ...rest } = yarnParameters();
    const built = build(configOf("hf-tiny/deepseek-v3-yarn", { rope_parameters: rest }));
    expect(stepsOf("mlaAttention", built)[0]!.attributes["scale"]).toBeCloseTo(24 ** -0.5, 12);
    const scaling = built.steps.find(({ op }) => op === "ropeTable")!.attributes["scaling"];
    expect(scaling).toBeCloseTo(0.1 * Math.log(4) + 1, 12);
    const norms = stepsOf("rmsNorm", build(configOf(v3, { rms_norm_eps: 1e-5 })));
    const eps = (name: string): unknown =>
      norms.find((step) => step.name === `layers.0.${name}`)?.attributes["eps"];
    expect(eps("input_layernorm")).toBe(1e-5);
    expect(eps("self_attn.q_a_layernorm")).toBe(1e-6);
    expect(eps("self_attn.kv_a_layernorm")).toBe(1e-6);
  });
});

describe("experts", () => {
  const layersWith = (change: Fields): string[] =>
    stepsOf("experts", build(configOf(v3, change))).map(({ name }) => name.split(".")[1]!);
  const firstRoute = (config: ConfigReader): GraphStep => stepsOf("route", build(config))[0]!;

  it("are in the layers after the dense ones, in each so many", () => {
    expect(layersWith({})).toEqual(["1", "2"]);
    expect(layersWith({ first_k_dense_replace: 0 })).toEqual(["0", "1", "2"]);
    expect(layersWith({ first_k_dense_replace: 0, moe_layer_freq: 2 })).toEqual(["0", "2"]);
    expect(layersWith({ first_k_dense_replace: 9 })).toEqual([]);
    expect(layersWith({ n_routed_experts: null })).toEqual([]);
  });

  it("that are shared are one feed-forward part, or none", () => {
    const widths = (n_shared_experts: unknown): number[] =>
      build(configOf(v3, { n_shared_experts }))
        .weights.filter(({ name }) => name.endsWith("shared_experts.gate_up_proj"))
        .map(({ rows }) => rows);
    expect(widths(3)).toEqual([192, 192]);
    expect(widths(undefined)).toEqual([64, 64]);
    expect(widths(0)).toEqual([]);
    expect(widths(null)).toEqual([]);
  });

  it("are compared as `topk_method` and `scoring_func` say", () => {
    const groups = { n_group: 4, topk_group: 2 };
    const greedy = firstRoute(configOf(v3, { ...groups, topk_method: "greedy" }));
    expect(greedy.attributes).toMatchObject({ numGroups: 1, topGroups: 1, scoring: 1 });
    expect(greedy.weights).toEqual([undefined]);
    const limited = firstRoute(configOf(v2, { ...groups, topk_method: "group_limited_greedy" }));
    expect(limited.attributes).toMatchObject({
      numGroups: 4,
      topGroups: 2,
      groupScore: 0,
      scoring: 0,
    });
    expect(limited.weights).toEqual([undefined]);
    const biased = firstRoute(configOf(v3, { scoring_func: "softmax" }));
    expect(biased.attributes).toMatchObject({ numGroups: 4, groupScore: 1, scoring: 0 });
    expect(biased.weights).toEqual([expect.any(Number)]);
  });

  it("have weights that may add up to 1, times a factor", () => {
    const change = { norm_topk_prob: true, routed_scaling_factor: 16 };
    expect(firstRoute(configOf(v2, change)).attributes).toMatchObject({ normalize: 1, scale: 16 });
    expect(firstRoute(configOf(halves)).attributes).toMatchObject({ normalize: 0, scale: 2.5 });
  });
});

function yarnParameters(): Fields {
  return configOf("hf-tiny/deepseek-v3-yarn").raw("rope_parameters") as Fields;
}
