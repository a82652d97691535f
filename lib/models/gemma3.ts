import type { Graph, Tensor } from "../graph/graph.js";
import type { ConfigReader } from "../loading/config.js";
import { ropeParameters, type RopeParameters } from "../loading/rope.js";
import * as blocks from "./blocks.js";
import {
  decoderConfig,
  layerWindows,
  readLayerTypes,
  unsupported,
  type DecoderConfig,
  type LayerType,
} from "./fields.js";
import type { Family } from "./model-definition.js";

interface Gemma3Config extends DecoderConfig {
  readonly attention_bias: boolean;
  /** Scores are multiplied by 1 / sqrt of it. */
  readonly query_pre_attn_scalar: number;
  /** 0: none. */
  readonly attn_logit_softcapping: number;
  readonly layer_types: readonly LayerType[];
  /** Window of each layer in tokens, 0: none. */
  readonly windows: readonly number[];
  /** sqrt(hidden_size), in the precision of the checkpoint. */
  readonly embed_scale: number;
  /** Added to the weights of norms: checkpoints hold them less 1, GGUF files whole. */
  readonly rms_norm_weight_offset: number;
  /** Local and global layers rotate at different speeds. */
  readonly ropes: Readonly<Record<LayerType, RopeParameters>>;
}

/**
 * Gemma 3, text only (Gemma Team 2025, arXiv:2503.19786): norms before and after attention and feed-forward, normed queries
 * and keys, several layers with a sliding window to each one without.
 */
export function gemma3(config: ConfigReader): Family {
  for (const field of ["final_logit_softcapping", "use_bidirectional_attention"]) {
    if (config.raw(field)) throw unsupported(config, `\`${field}\``);
  }
  const shared = decoderConfig(config, {
    head_dim: 256,
    tie_word_embeddings: true,
    activation: ["hidden_activation", "gelu_pytorch_tanh"],
  });
  const pattern = config.integer("sliding_window_pattern", { min: 1, default: 6 });
  const layer_types = readLayerTypes(config, shared.num_hidden_layers, (layer) =>
    (layer + 1) % pattern === 0 ? "full_attention" : "sliding_attention",
  );
  const rope = (layerType: LayerType, defaultTheta: number): RopeParameters =>
    ropeParameters(config, { headDim: shared.head_dim, layerType, defaultTheta });
  const c: Gemma3Config = {
    ...shared,
    attention_bias: config.boolean("attention_bias", false),
    query_pre_attn_scalar: config.number("query_pre_attn_scalar", {
      exclusiveMin: 0,
      default: 256,
    }),
    attn_logit_softcapping: config.number("attn_logit_softcapping", { min: 0, default: 0 }),
    layer_types,
    windows: layerWindows(config, layer_types),
    embed_scale: roundTo(checkpointDtype(config), Math.sqrt(shared.hidden_size)),
    rms_norm_weight_offset: config.number("rms_norm_weight_offset", { default: 1 }),
    ropes: {
      full_attention: rope("full_attention", 1e6),
      sliding_attention: rope("sliding_attention", 1e4),
    },
  };
  return { config: c, build: (g) => build(g, c) };
}

/** `dtype`, in older configs `torch_dtype`. */
function checkpointDtype(config: ConfigReader): string {
  return config.string("dtype", config.string("torch_dtype", "float32"));
}

/** Nearest number of the dtype; enough for the range of an embedding scale. */
function roundTo(dtype: string, value: number): number {
  const fractionBits: Readonly<Record<string, number>> = { bfloat16: 7, float16: 10 };
  const bits = fractionBits[dtype];
  if (bits === undefined) return Math.fround(value);
  const unit = 2 ** (Math.floor(Math.log2(value)) - bits);
  return Math.round(value / unit) * unit;
}

function normOptions(c: Gemma3Config): blocks.NormOptions {
  return { weightOffset: c.rms_norm_weight_offset };
}

function build(g: Graph, c: Gemma3Config): Tensor {
  const ropes = {
    full_attention: blocks.ropeTable(g, c.ropes.full_attention, "rope_full"),
    sliding_attention: blocks.ropeTable(g, c.ropes.sliding_attention, "rope_sliding"),
  };
  let x = blocks.embedTokens(g, c, { scale: c.embed_scale });
  x = blocks.layers(g, c, x, (x, layer, isLast) => {
    const rope = ropes[c.layer_types[layer] ?? "full_attention"];
    return decoderLayer(g, c, x, { rope, slidingWindow: c.windows[layer] ?? 0, isLast });
  });
  return blocks.lmHead(g, c, blocks.norm(g, c, x, "norm", normOptions(c)));
}

/** x + norm(attention(norm(x))), then x + norm(mlp(norm(x))). */
function decoderLayer(
  g: Graph,
  c: Gemma3Config,
  x: Tensor,
  { rope, slidingWindow, isLast }: { rope: Tensor; slidingWindow: number; isLast: boolean },
): Tensor {
  const norm = (x: Tensor, name: string): Tensor => blocks.norm(g, c, x, name, normOptions(c));
  const normed = norm(x, "input_layernorm");
  const attended = g.scope("self_attn", () => attention(g, c, normed, rope, slidingWindow));
  const [mixed, residual] = isLast ? blocks.takeOutputs(g, attended, x) : [attended, x];
  const output = g.scope("self_attn", () =>
    blocks.projection(g, mixed, "o_proj", c.hidden_size, { bias: c.attention_bias }),
  );
  const h = g.add(residual, norm(output, "post_attention_layernorm"), "attention_residual");
  const fed = norm(h, "pre_feedforward_layernorm");
  const mlp = g.scope("mlp", () => blocks.gatedMlp(g, c, fed));
  return g.add(h, norm(mlp, "post_feedforward_layernorm"), "mlp_residual");
}

function attention(
  g: Graph,
  c: Gemma3Config,
  x: Tensor,
  rope: Tensor,
  slidingWindow: number,
): Tensor {
  const [query, key, value] = blocks.qkvProjection(g, c, x, { bias: c.attention_bias });
  const q = blocks.headNorm(g, c, query, "q_norm", normOptions(c));
  const k = blocks.headNorm(g, c, key, "k_norm", normOptions(c));
  const scale = 1 / Math.sqrt(c.query_pre_attn_scalar);
  return blocks.attend(g, c, [q, k, value], {
    rope,
    slidingWindow,
    scale,
    softcap: c.attn_logit_softcapping,
  });
}
