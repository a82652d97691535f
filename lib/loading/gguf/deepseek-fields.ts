import type { ArchitectureKeys } from "./architecture-keys.js";
import { gatingFunctions, type Fields } from "./family-fields.js";
import type { GgufHeader } from "./header.js";

/** Latent attention (DeepSeek-V2 and its successors), with experts or without. */
export function deepSeekFields(header: GgufHeader, keys: ArchitectureKeys): Fields {
  const { tensors } = header;
  keys.expect("attention.temperature_scale", []);
  return {
    ...headFields(keys),
    ...expertFields(header, keys),
    head_dim: undefined,
    q_lora_rank: keys.get("attention.q_lora_rank") ?? null,
    kv_lora_rank: keys.required("attention.kv_lora_rank"),
    split_kv_b_proj: tensors.has("blk.0.attn_k_b.weight"),
    attention_bias: tensors.has("blk.0.attn_kv_a_mqa.bias"),
  };
}

/** Files with one matrix for keys and values have the lengths of heads where others have those of the cache. */
function headFields(keys: ArchitectureKeys): Fields {
  const rope = keys.required("rope.dimension_count");
  const key = keys.get("attention.key_length_mla") ?? keys.required("attention.key_length");
  const value = keys.get("attention.value_length_mla") ?? keys.required("attention.value_length");
  return {
    num_key_value_heads: keys.uniform("attention.head_count"),
    qk_rope_head_dim: rope,
    qk_nope_head_dim: typeof key === "number" && typeof rope === "number" ? key - rope : key,
    v_head_dim: value,
  };
}

function expertFields({ tensors }: GgufHeader, keys: ArchitectureKeys): Fields {
  if (!keys.get("expert_count")) return { n_routed_experts: null };
  const { softmax, sigmoid } = gatingFunctions;
  keys.expect("expert_gating_func", [softmax, sigmoid]);
  const firstSparse = keys.number("leading_dense_block_count", 0);
  const isCorrected = tensors.has(`blk.${firstSparse}.exp_probs_b.bias`);
  const numGroups = keys.get("expert_group_count") || 1;
  return {
    num_local_experts: undefined,
    n_routed_experts: keys.required("expert_count"),
    num_experts_per_tok: keys.required("expert_used_count"),
    stacked_experts: true,
    n_shared_experts: keys.get("expert_shared_count") ?? 0,
    moe_intermediate_size: keys.required("expert_feed_forward_length"),
    first_k_dense_replace: firstSparse,
    n_group: numGroups,
    topk_group: keys.get("expert_group_used_count") || 1,
    topk_method: isCorrected ? "noaux_tc" : numGroups === 1 ? "greedy" : "group_limited_greedy",
    scoring_func: keys.get("expert_gating_func") === sigmoid ? "sigmoid" : "softmax",
    norm_topk_prob: keys.get("expert_weights_norm") ?? false,
    routed_scaling_factor: keys.get("expert_weights_scale") || 1,
  };
}
