import { describe } from "../errors.js";
import type { Graph, RouteOptions, Tensor } from "../graph/graph.js";
import type { Scoring } from "../graph/ops.js";
import type { ConfigReader } from "../loading/config.js";
import * as blocks from "./blocks.js";
import { decoderConfig, unsupported, type DecoderConfig } from "./fields.js";
import {
  latentAttention,
  latentAttentionConfig,
  type LatentAttentionConfig,
} from "./latent-attention.js";
import { expertWeights, mixture, mixtureConfig, type MixtureConfig } from "./mixture.js";
import type { Family } from "./model-definition.js";

interface DeepSeekConfig extends DecoderConfig, LatentAttentionConfig {
  /** Biases of all three matrices of dense layers and shared experts. */
  readonly mlp_bias: boolean;
  /** By layer, its experts; undefined: a dense layer. */
  readonly experts: readonly (ExpertsConfig | undefined)[];
}

interface ExpertsConfig extends MixtureConfig {
  readonly moe_intermediate_size: number;
  /** Experts of every token, which the checkpoint holds as one of so many times the width; 0: none. */
  readonly n_shared_experts: number;
  readonly topk_method: TopkMethod;
  readonly routing: Omit<RouteOptions, "topK" | "bias">;
}

const scoringNames = ["softmax", "sigmoid"] as const;

const topkMethods = ["greedy", "group_limited_greedy", "noaux_tc"] as const;

/**
 * How experts are chosen: by their scores; by their scores in the groups with the best expert; by their scores and a bias in
 * the groups with the best two.
 */
type TopkMethod = (typeof topkMethods)[number];

/** What a family takes for fields that its config.json leaves out, by their names there. */
interface Defaults {
  readonly first_k_dense_replace: number;
  readonly n_routed_experts: number;
  readonly n_shared_experts: number;
  readonly moe_intermediate_size: number;
  readonly num_experts_per_tok?: number;
  readonly n_group: number;
  readonly topk_group: number;
  readonly topk_method: TopkMethod;
  readonly scoring_func: Scoring;
  readonly norm_topk_prob: boolean;
  readonly routed_scaling_factor: number;
}

/** DeepSeek-V2 (DeepSeek-AI 2024, arXiv:2405.04434). */
export function deepseekV2(config: ConfigReader): Family {
  return deepseek(config, {
    first_k_dense_replace: 0,
    n_routed_experts: 64,
    n_shared_experts: 2,
    moe_intermediate_size: 1407,
    n_group: 1,
    topk_group: 1,
    topk_method: "greedy",
    scoring_func: "softmax",
    norm_topk_prob: false,
    routed_scaling_factor: 1,
  });
}

/** DeepSeek-V3 (DeepSeek-AI 2024, arXiv:2412.19437), without its layers that predict further tokens. */
export function deepseekV3(config: ConfigReader): Family {
  return deepseek(config, {
    first_k_dense_replace: 3,
    n_routed_experts: 256,
    n_shared_experts: 1,
    moe_intermediate_size: 2048,
    num_experts_per_tok: 8,
    n_group: 8,
    topk_group: 4,
    topk_method: "noaux_tc",
    scoring_func: "sigmoid",
    norm_topk_prob: true,
    routed_scaling_factor: 2.5,
  });
}

function deepseek(config: ConfigReader, defaults: Defaults): Family {
  const attention = latentAttentionConfig(config);
  const shared = decoderConfig(config, { head_dim: attention.qk_rope_head_dim });
  const c: DeepSeekConfig = {
    ...shared,
    ...attention,
    mlp_bias: config.boolean("mlp_bias", false),
    experts: expertsOfLayers(config, shared.num_hidden_layers, defaults),
  };
  return { config: c, build: (g) => build(g, c) };
}

// ---- config

function expertsOfLayers(
  config: ConfigReader,
  numLayers: number,
  defaults: Defaults,
): (ExpertsConfig | undefined)[] {
  const firstDense = config.integer("first_k_dense_replace", {
    min: 0,
    max: 1024,
    default: defaults.first_k_dense_replace,
  });
  const step = config.integer("moe_layer_freq", { min: 1, default: 1 });
  const isDense = config.has("n_routed_experts") && config.raw("n_routed_experts") === null;
  const experts = isDense ? undefined : expertsConfig(config, defaults);
  return Array.from({ length: numLayers }, (_, layer) =>
    layer >= firstDense && layer % step === 0 ? experts : undefined,
  );
}

function expertsConfig(config: ConfigReader, defaults: Defaults): ExpertsConfig {
  const counts = mixtureConfig(config, {
    field: "n_routed_experts",
    experts: defaults.n_routed_experts,
    perToken: defaults.num_experts_per_tok,
  });
  const topk_method = oneOf(config, "topk_method", topkMethods, defaults.topk_method);
  const moe_intermediate_size = config.integer("moe_intermediate_size", {
    min: 1,
    max: 2 ** 20,
    default: defaults.moe_intermediate_size,
  });
  return {
    ...counts,
    moe_intermediate_size,
    n_shared_experts: config.has("n_shared_experts")
      ? (config.optionalInteger("n_shared_experts", { min: 0, max: 64 }) ?? 0)
      : defaults.n_shared_experts,
    topk_method,
    routing: {
      scoring: oneOf(config, "scoring_func", scoringNames, defaults.scoring_func),
      normalize: config.boolean("norm_topk_prob", defaults.norm_topk_prob),
      scale: config.number("routed_scaling_factor", { default: defaults.routed_scaling_factor }),
      ...(topk_method !== "greedy" && {
        groups: expertGroups(config, counts, { ...defaults, topk_method }),
      }),
    },
  };
}

function expertGroups(
  config: ConfigReader,
  { num_experts, num_experts_per_tok }: MixtureConfig,
  defaults: Pick<Defaults, "n_group" | "topk_group" | "topk_method">,
): NonNullable<RouteOptions["groups"]> {
  const max = num_experts;
  const numGroups = config.integer("n_group", { min: 1, max, default: defaults.n_group });
  const score = defaults.topk_method === "noaux_tc" ? "top2Sum" : "max";
  const size = num_experts / numGroups;
  if (!Number.isInteger(size) || (score === "top2Sum" && numGroups > 1 && size < 2)) {
    const least = score === "top2Sum" ? " into groups of two or more" : "";
    throw config.error("n_group", `a divisor of ${num_experts} experts${least}`, numGroups);
  }
  const topGroups = config.integer("topk_group", {
    min: 1,
    max: numGroups,
    default: defaults.topk_group,
  });
  if (num_experts_per_tok <= topGroups * size) return { numGroups, topGroups, score };
  const expected = `at most the ${topGroups * size} experts of \`topk_group\` groups`;
  throw config.error("num_experts_per_tok", expected, num_experts_per_tok);
}

function oneOf<T extends string>(
  config: ConfigReader,
  field: string,
  supported: readonly T[],
  fallback: T,
): T {
  const name = config.string(field, fallback);
  const known = supported.find((each) => each === name);
  if (known !== undefined) return known;
  throw unsupported(config, `the \`${field}\` ${describe(name)}`, supported);
}

// ---- graph

function build(g: Graph, c: DeepSeekConfig): Tensor {
  const rope = blocks.ropeTable(g, c.rope);
  let x = blocks.embedTokens(g, c);
  x = blocks.layers(g, c, x, (x, layer, isLast) =>
    blocks.preNormLayer(g, c, x, isLast, {
      attention: (x) => latentAttention(g, c, x, rope),
      output: (x) => blocks.projection(g, x, "o_proj", c.hidden_size, { bias: c.attention_bias }),
      mlp: (x) => mlp(g, c, x, c.experts[layer]),
    }),
  );
  return blocks.lmHead(g, c, blocks.norm(g, c, x, "norm"));
}

function mlp(g: Graph, c: DeepSeekConfig, x: Tensor, experts: ExpertsConfig | undefined): Tensor {
  const bias = c.mlp_bias;
  if (experts === undefined) return blocks.gatedMlp(g, c, x, { bias });
  const routed = routedExperts(g, c, x, experts);
  if (experts.n_shared_experts === 0) return routed;
  const intermediate_size = experts.n_shared_experts * experts.moe_intermediate_size;
  const shared = g.scope("shared_experts", () =>
    blocks.gatedMlp(g, { ...c, intermediate_size }, x, { bias }),
  );
  return g.add(routed, shared, "add_shared");
}

function routedExperts(g: Graph, c: DeepSeekConfig, x: Tensor, experts: ExpertsConfig): Tensor {
  const { num_experts: numExperts, moe_intermediate_size: width, topk_method, routing } = experts;
  const names = { gate: "gate_proj", up: "up_proj", down: "down_proj" };
  const bias =
    topk_method === "noaux_tc"
      ? blocks.vector(g, "gate.e_score_correction_bias", numExperts)
      : undefined;
  return mixture(g, experts, x, {
    router: "gate",
    routing: { ...routing, bias },
    weights: expertWeights(g, names, { numExperts, width, hidden: c.hidden_size }),
    activation: c.activation,
  });
}
