import type { Graph, MlaAttentionOptions } from "../graph/graph.js";
import type { WeightPart } from "../graph/plan.js";

/** Widths of multi-head latent attention, with the names of Hugging Face's config. */
export interface LatentShape {
  readonly num_attention_heads: number;
  readonly kv_lora_rank: number;
  readonly qk_nope_head_dim: number;
  readonly v_head_dim: number;
}

/**
 * The up-projections of `g.mlaAttention` from the checkpoint's matrix `name` below the open scopes, `[heads * (qk_nope_head_dim +
 * v_head_dim), kv_lora_rank]`, in which the rows of a head are W_UK, then W_UV. `keyUp` is W_UK transposed, for which blocks
 * of a quantised file become plain numbers. `keyExpand` is made where `expand` is set.
 */
export function upProjections(
  g: Graph,
  c: LatentShape,
  options: { readonly name?: string; readonly expand?: boolean } = {},
): Pick<MlaAttentionOptions, "keyUp" | "valueUp" | "keyExpand"> {
  const { name = "kv_b_proj", expand = false } = options;
  const [heads, latent] = [c.num_attention_heads, c.kv_lora_rank];
  const [nope, value] = [c.qk_nope_head_dim, c.v_head_dim];
  const tensor = `model.${g.path(name)}.weight`;
  const perHead = (part: (firstRow: number) => Omit<WeightPart, "tensor" | "shape">) =>
    Array.from({ length: heads }, (_, head): WeightPart => {
      return { tensor, shape: [heads * (nope + value), latent], ...part(head * (nope + value)) };
    });
  const transposed = perHead((row) => {
    const strides = { first: row * latent, row: 1, col: latent, cols: nope };
    return { rowStart: 0, rows: latent, strides };
  });
  const keys = perHead((row) => ({ rowStart: row, rows: nope }));
  const values = perHead((row) => ({ rowStart: row + nope, rows: value }));
  return {
    keyUp: g.matrix(`${name}.key_up`, transposed),
    valueUp: g.matrix(`${name}.value_up`, values),
    keyExpand: expand ? g.matrix(`${name}.key_expand`, keys) : undefined,
  };
}

/** The same from `k_b_proj` `[heads, kv_lora_rank, qk_nope_head_dim]` and `v_b_proj` `[heads, v_head_dim, kv_lora_rank]`. */
export function splitUpProjections(
  g: Graph,
  c: LatentShape,
  { expand = false }: { readonly expand?: boolean } = {},
): Pick<MlaAttentionOptions, "keyUp" | "valueUp" | "keyExpand"> {
  const { num_attention_heads: heads, kv_lora_rank: latent, qk_nope_head_dim: nope } = c;
  const stacked = (name: string, rows: number, cols: number): WeightPart[] => {
    const tensor = `model.${g.path(name)}.weight`;
    return [{ tensor, shape: [heads, rows, cols], rowStart: 0, rows: heads * rows }];
  };
  const [keys] = stacked("k_b_proj", latent, nope) as [WeightPart];
  const transposed = Array.from({ length: heads }, (_, head): WeightPart => {
    const strides = { first: head * latent * nope, row: 1, col: nope, cols: latent };
    return { ...keys, rowStart: 0, rows: nope, strides };
  });
  return {
    keyUp: g.matrix("kv_b_proj.key_up", [keys]),
    valueUp: g.matrix("kv_b_proj.value_up", stacked("v_b_proj", c.v_head_dim, latent)),
    keyExpand: expand ? g.matrix("kv_b_proj.key_expand", transposed) : undefined,
  };
}
