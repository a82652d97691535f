import type { Graph, Tensor } from "../graph/graph.js";
import type { WeightPart } from "../graph/plan.js";
import type { Weight } from "../graph/weight-table.js";
import { inverseFrequencies, type RopeParameters } from "../loading/rope.js";
import type { DecoderConfig } from "./fields.js";

/*
 * Building blocks that are really the same in all families. Steps and weights are named as in the checkpoint, less its
 * prefix `model.` and its suffix `.weight`.
 */

// ---- weights

/** Checkpoint matrices `[rows, cols]` below the open scopes, stacked into one weight. */
export function matrix(
  g: Graph,
  name: string,
  rows: Readonly<Record<string, number>>,
  cols: number,
): Weight {
  return g.matrix(name, matrixParts(g, rows, cols));
}

/** As {@link matrix}, before they are a weight. */
export function matrixParts(
  g: Graph,
  rows: Readonly<Record<string, number>>,
  cols: number,
): WeightPart[] {
  return Object.entries(rows).map(([part, count]) => {
    return {
      tensor: `model.${g.path(part)}.weight`,
      shape: [count, cols],
      rowStart: 0,
      rows: count,
    };
  });
}

/** Checkpoint biases below the open scopes, joined into one vector. */
export function bias(g: Graph, name: string, lengths: Readonly<Record<string, number>>): Weight {
  const parts = Object.entries(lengths).map(([part, length]) =>
    vectorPart(g, `${part}.bias`, length),
  );
  return g.vector(`${name}.bias`, parts);
}

function vectorPart(g: Graph, name: string, length: number): WeightPart {
  return { tensor: `model.${g.path(name)}`, shape: [length], rowStart: 0, rows: 1 };
}

/** A checkpoint vector below the open scopes, named in full. */
export function vector(g: Graph, name: string, length: number): Weight {
  return g.vector(name, [vectorPart(g, name, length)]);
}

// ---- first and last steps

const embedding = "embed_tokens";

export function embedTokens(
  g: Graph,
  c: DecoderConfig,
  options: { readonly scale?: number } = {},
): Tensor {
  return g.embed(
    g.table(embedding, matrixParts(g, { [embedding]: c.vocab_size }, c.hidden_size)),
    options,
  );
}

/** Logits `[outputs, vocab_size]`; the weight is the embedding's where the two are tied. */
export function lmHead(g: Graph, c: DecoderConfig, x: Tensor): Tensor {
  const tensor = c.tie_word_embeddings ? `model.${embedding}.weight` : "lm_head.weight";
  const shape = [c.vocab_size, c.hidden_size];
  return g.linear(x, g.matrix("lm_head", [{ tensor, shape, rowStart: 0, rows: c.vocab_size }]));
}

export function ropeTable(g: Graph, parameters: RopeParameters, name = "rope"): Tensor {
  const { values, attentionScaling } = inverseFrequencies(parameters, g.maxModelLen);
  return g.ropeTable(g.constant(name, values), { scaling: attentionScaling });
}

// ---- norms

export interface NormOptions {
  /** Added to the weight: 1 where checkpoints hold it less 1. @default 0 */
  readonly weightOffset?: number;
  /** @default rms_norm_eps */
  readonly eps?: number;
}

/** RMS norm over whole rows. */
export function norm(
  g: Graph,
  c: DecoderConfig,
  x: Tensor,
  name: string,
  options: NormOptions = {},
): Tensor {
  return groupNorm(g, c, x, name, x.width, options);
}

/** RMS norm over each head (query and key norms). */
export function headNorm(
  g: Graph,
  c: DecoderConfig,
  x: Tensor,
  name: string,
  options: NormOptions = {},
): Tensor {
  return groupNorm(g, c, x, name, c.head_dim, options);
}

/** RMS norm over each `width` columns. */
function groupNorm(
  g: Graph,
  c: DecoderConfig,
  x: Tensor,
  name: string,
  width: number,
  options: NormOptions,
): Tensor {
  const weight = g.vector(name, [vectorPart(g, `${name}.weight`, width)]);
  return g.rmsNorm(x, weight, { eps: c.rms_norm_eps, ...options });
}

// ---- attention

/** Columns of queries, keys and values. */
export function qkvWidths(c: DecoderConfig): readonly [number, number, number] {
  const kvWidth = c.num_key_value_heads * c.head_dim;
  return [c.num_attention_heads * c.head_dim, kvWidth, kvWidth];
}

/** Queries, keys and values of q_proj, k_proj, v_proj. */
export function qkvProjection(
  g: Graph,
  c: DecoderConfig,
  x: Tensor,
  options: { readonly bias: boolean },
): [query: Tensor, key: Tensor, value: Tensor] {
  const [q, k, v] = qkvWidths(c);
  const rows = { q_proj: q, k_proj: k, v_proj: v };
  return projections(g, x, "qkv_proj", rows, options) as [Tensor, Tensor, Tensor];
}

export interface AttendOptions {
  /** Result of {@link ropeTable}. */
  readonly rope: Tensor;
  /** Whether the pairs that are rotated are neighbours instead of halves. @default false */
  readonly interleaved?: boolean;
  /** @default 1 / sqrt(head_dim) */
  readonly scale?: number;
  /** Tokens, 0: none. @default 0 */
  readonly slidingWindow?: number;
  /** 0: none. @default 0 */
  readonly softcap?: number;
  /** `[heads]`, see `Graph.attention`. @default none */
  readonly sinks?: Weight;
}

/** Rotates queries and keys, stores keys and values in the layer's KV cache, attends: `[tokens, heads * head_dim]`. */
export function attend(
  g: Graph,
  c: DecoderConfig,
  [query, key, value]: readonly [Tensor, Tensor, Tensor],
  options: AttendOptions,
): Tensor {
  const { rope, interleaved = false, scale = 1 / Math.sqrt(c.head_dim) } = options;
  const { slidingWindow = 0, softcap = 0 } = options;
  const cache = g.kvCache({ numKvHeads: c.num_key_value_heads, headDim: c.head_dim });
  const heads = { headDim: c.head_dim, rotaryDim: rope.width, interleaved };
  const q = g.rope(query, rope, heads, "q_rope");
  g.cacheWrite(g.rope(key, rope, heads, "k_rope"), value, cache);
  const numHeads = c.num_attention_heads;
  return g.attention(q, cache, { numHeads, scale, slidingWindow, softcap, sinks: options.sinks });
}

/** A linear of one checkpoint matrix `[width, x.width]`, e.g. `o_proj`. */
export function projection(
  g: Graph,
  x: Tensor,
  name: string,
  width: number,
  options: { readonly bias?: boolean } = {},
): Tensor {
  const rows = { [name]: width };
  return g.linear(
    x,
    matrix(g, name, rows, x.width),
    options.bias ? bias(g, name, rows) : undefined,
  );
}

/**
 * Linears of the same input, one for each checkpoint matrix: a single step over the stacked matrices, named `name`, or a
 * step each where quantised types differ.
 */
export function projections(
  g: Graph,
  x: Tensor,
  name: string,
  rows: Readonly<Record<string, number>>,
  options: { readonly bias?: boolean },
): Tensor[] {
  const parts = matrixParts(g, rows, x.width);
  if (!g.canStack(parts)) {
    return Object.entries(rows).map(([part, width]) => projection(g, x, part, width, options));
  }
  const stacked = g.linear(
    x,
    g.matrix(name, parts),
    options.bias ? bias(g, name, rows) : undefined,
  );
  return g.split(stacked, Object.values(rows));
}

// ---- feed-forward

/** down(activation(gate(x)) * up(x)) */
export function gatedMlp(
  g: Graph,
  c: DecoderConfig,
  x: Tensor,
  options: { readonly bias?: boolean } = {},
): Tensor {
  const rows = { gate_proj: c.intermediate_size, up_proj: c.intermediate_size };
  const [gate, up] = projections(g, x, "gate_up_proj", rows, options) as [Tensor, Tensor];
  return projection(
    g,
    g.gatedActivation(gate, up, c.activation),
    "down_proj",
    c.hidden_size,
    options,
  );
}

// ---- layers

/** What a layer does besides norms and residuals; both run below a scope of their own. */
export interface LayerParts {
  /** Normed `[tokens, hidden]` to `[tokens, heads * head_dim]`. */
  readonly attention: (x: Tensor) => Tensor;
  /** `[rows, heads * head_dim]` to `[rows, hidden]`. */
  readonly output: (x: Tensor) => Tensor;
  /** Normed `[rows, hidden]` to `[rows, hidden]`. */
  readonly mlp: (x: Tensor) => Tensor;
  /** @default "mlp" */
  readonly mlpScope?: string;
}

/** x + attention(norm(x)), then x + mlp(norm(x)). */
export function preNormLayer(
  g: Graph,
  c: DecoderConfig,
  x: Tensor,
  isLast: boolean,
  parts: LayerParts,
): Tensor {
  const normed = norm(g, c, x, "input_layernorm");
  const attended = g.scope("self_attn", () => parts.attention(normed));
  const [mixed, residual] = isLast ? takeOutputs(g, attended, x) : [attended, x];
  const h = g.add(
    residual,
    g.scope("self_attn", () => parts.output(mixed)),
    "attention_residual",
  );
  const normedAgain = norm(g, c, h, "post_attention_layernorm");
  return g.add(
    h,
    g.scope(parts.mlpScope ?? "mlp", () => parts.mlp(normedAgain)),
    "mlp_residual",
  );
}

/** After the last attention no row needs its neighbours, so only those that need logits go on. */
export function takeOutputs(
  g: Graph,
  attended: Tensor,
  residual: Tensor,
): [attended: Tensor, residual: Tensor] {
  return [g.takeRows(attended, "take_attention"), g.takeRows(residual, "take_residual")];
}

/** Runs `layer` for each layer below its scope, `layers.0`, `layers.1`, ...; the last one must call {@link takeOutputs}. */
export function layers(
  g: Graph,
  c: DecoderConfig,
  x: Tensor,
  layer: (x: Tensor, index: number, isLast: boolean) => Tensor,
): Tensor {
  for (let index = 0; index < c.num_hidden_layers; index++) {
    const isLast = index === c.num_hidden_layers - 1;
    x = g.scope(`layers.${index}`, () => layer(x, index, isLast));
  }
  return x;
}
