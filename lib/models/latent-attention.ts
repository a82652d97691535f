import type { Graph, Tensor } from "../graph/graph.js";
import type { WeightPart } from "../graph/plan.js";
import type { ConfigReader } from "../loading/config.js";
import { ropeParameters, yarnScale, type RopeParameters } from "../loading/rope.js";
import * as blocks from "./blocks.js";
import type { DecoderConfig } from "./fields.js";
import { upProjections } from "./latent-projections.js";

/** Fields of multi-head latent attention, checked. */
export interface LatentAttentionConfig {
  /** Rows of q_a_proj; undefined: queries are made of the hidden state at once, by q_proj. */
  readonly q_lora_rank: number | undefined;
  /** Width of the latent of a token. */
  readonly kv_lora_rank: number;
  /** Dimensions of a head without rope. */
  readonly qk_nope_head_dim: number;
  /** Dimensions of a head with rope, whose key is one for all heads. */
  readonly qk_rope_head_dim: number;
  readonly v_head_dim: number;
  /** Biases of q_a_proj, kv_a_proj_with_mqa and o_proj; the others never have one. */
  readonly attention_bias: boolean;
  /** Whether the pairs that rope rotates are neighbours instead of halves. */
  readonly rope_interleave: boolean;
  readonly rope: RopeParameters;
}

/** A row of the cache is at most this wide. */
const maxLatentRow = 1024;
/** Of the norms inside, whatever `rms_norm_eps` is. */
const innerNorm = { eps: 1e-6 };

/** Reads the fields; the defaults are those of Hugging Face transformers. */
export function latentAttentionConfig(config: ConfigReader): LatentAttentionConfig {
  const dimension = (field: string, fallback: number): number =>
    config.integer(field, { min: 1, max: 512, default: fallback });
  const even = (field: string, fallback: number, max: number): number => {
    const value = config.integer(field, { min: 2, max, default: fallback });
    if (value % 2 === 0) return value;
    throw config.error(field, "an even number", value);
  };
  const qk_rope_head_dim = even("qk_rope_head_dim", 64, 512);
  const rank = { min: 1, max: 2 ** 20 };
  return {
    q_lora_rank: config.has("q_lora_rank") ? config.optionalInteger("q_lora_rank", rank) : 1536,
    kv_lora_rank: even("kv_lora_rank", 512, maxLatentRow - qk_rope_head_dim),
    qk_nope_head_dim: dimension("qk_nope_head_dim", 128),
    qk_rope_head_dim,
    v_head_dim: dimension("v_head_dim", 128),
    attention_bias: config.boolean("attention_bias", false),
    rope_interleave: config.boolean("rope_interleave", true),
    rope: ropeParameters(config, { headDim: qk_rope_head_dim }),
  };
}

/**
 * Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434) without its output projection: normed `[tokens, hidden]` to
 * `[tokens, heads * v_head_dim]`. The cache holds the normed latent and the rotated rope key of each token.
 *
 * @param rope result of {@link blocks.ropeTable}
 */
export function latentAttention(
  g: Graph,
  c: DecoderConfig & LatentAttentionConfig,
  x: Tensor,
  rope: Tensor,
): Tensor {
  const { kv_lora_rank: latentDim, qk_rope_head_dim: ropeDim, num_attention_heads: numHeads } = c;
  const [query, row] = downProjections(g, c, x);
  const [queryNope, queryRope] = g.split(query, [
    numHeads * c.qk_nope_head_dim,
    numHeads * ropeDim,
  ]);
  const [latent, keyRope] = g.split(row, [latentDim, ropeDim]);
  const heads = { headDim: ropeDim, rotaryDim: ropeDim, interleaved: c.rope_interleave };
  const cache = g.kvCache({ numKvHeads: 1, headDim: latentDim + ropeDim, latentDim });
  const normed = blocks.norm(g, c, latent, "kv_a_layernorm", innerNorm);
  g.latentWrite(normed, g.rope(keyRope, rope, heads, "k_rope"), cache);
  const rotated = g.rope(queryRope, rope, heads, "q_rope");
  const scale = softmaxScale(c);
  return g.mlaAttention(queryNope, rotated, cache, { numHeads, scale, ...upProjections(g, c) });
}

/** Queries, without rope of all heads before rope of all heads, and `[latent | rope key]` before norm and rope. */
function downProjections(
  g: Graph,
  c: DecoderConfig & LatentAttentionConfig,
  x: Tensor,
): [query: Tensor, row: Tensor] {
  const rowWidth = c.kv_lora_rank + c.qk_rope_head_dim;
  const rows = { kv_a_proj_with_mqa: rowWidth };
  const bias = c.attention_bias;
  if (c.q_lora_rank !== undefined) {
    const both = { q_a_proj: c.q_lora_rank, ...rows };
    const [down, row] = blocks.projections(g, x, "qkv_a_proj", both, { bias }) as [Tensor, Tensor];
    const normed = blocks.norm(g, c, down, "q_a_layernorm", innerNorm);
    return [g.linear(normed, g.matrix("q_b_proj", queryParts(g, c, "q_b_proj", down.width))), row];
  }
  const queries = queryParts(g, c, "q_proj", x.width);
  const parts = [...queries, ...blocks.matrixParts(g, rows, x.width)];
  if (bias || !g.canStack(parts)) {
    const query = g.linear(x, g.matrix("q_proj", queries));
    return [query, blocks.projection(g, x, "kv_a_proj_with_mqa", rowWidth, { bias })];
  }
  const stacked = g.linear(x, g.matrix("qkv_a_proj", parts));
  return g.split(stacked, [stacked.width - rowWidth, rowWidth]);
}

/** The rows of all heads without rope, then those with rope; a checkpoint holds head after head. */
function queryParts(
  g: Graph,
  c: DecoderConfig & LatentAttentionConfig,
  name: string,
  cols: number,
): WeightPart[] {
  const { num_attention_heads: numHeads, qk_nope_head_dim: nope, qk_rope_head_dim: rope } = c;
  const tensor = `model.${g.path(name)}.weight`;
  const shape = [numHeads * (nope + rope), cols];
  const ofHeads = (first: number, rows: number): WeightPart[] =>
    Array.from({ length: numHeads }, (_, head) => {
      return { tensor, shape, rowStart: head * (nope + rope) + first, rows };
    });
  return [...ofHeads(0, nope), ...ofHeads(nope, rope)];
}

/** With YaRN it also has the square of the temperature that `mscale_all_dim` gives. */
function softmaxScale({ qk_nope_head_dim, qk_rope_head_dim, rope }: LatentAttentionConfig): number {
  const isScaled = rope.type === "yarn" && rope.mscaleAllDim !== undefined;
  const mscale = isScaled ? yarnScale(rope.factor, rope.mscaleAllDim) : 1;
  return mscale ** 2 / Math.sqrt(qk_nope_head_dim + qk_rope_head_dim);
}
