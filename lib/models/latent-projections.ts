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
 * v_head_dim), kv_lora_rank]`, in which the rows of a head are W_UK, then W_UV. `keyUp` is W_UK transposed, so the matrix must
 * not be quantised. `keyExpand` is made where `expand` is set.
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
