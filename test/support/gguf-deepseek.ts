import type { ConfigReader } from "../../lib/loading/config.js";
import { yarnScale } from "../../lib/loading/rope.js";
import { bool, f32, u32, type GgufTensor, type GgufValue } from "./gguf-writer.js";

/** Names in a layer, GGUF by Hugging Face, that only DeepSeek's models have. */
export const deepSeekNames: Readonly<Record<string, string>> = {
  "self_attn.q_a_proj": "attn_q_a",
  "self_attn.q_a_layernorm": "attn_q_a_norm",
  "self_attn.q_b_proj": "attn_q_b",
  "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
  "self_attn.kv_a_layernorm": "attn_kv_a_norm",
  "self_attn.kv_b_proj": "attn_kv_b",
  "self_attn.k_b_proj": "attn_k_b",
  "self_attn.v_b_proj": "attn_v_b",
  "mlp.gate.e_score_correction_bias": "exp_probs_b.bias",
  "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
  "mlp.shared_experts.up_proj": "ffn_up_shexp",
  "mlp.shared_experts.down_proj": "ffn_down_shexp",
};

/** `kv_b_proj` as W_UK of each head, transposed, and W_UV; any other tensor as it is. */
export function splitUpProjection(config: ConfigReader, tensor: GgufTensor): GgufTensor[] {
  const [path] = tensor.name.split("kv_b_proj");
  if (path === tensor.name) return [tensor];
  const { type } = tensor;
  const [heads, rank] = [config.integer("num_attention_heads"), config.integer("kv_lora_rank")];
  const [nope, value] = [config.integer("qk_nope_head_dim"), config.integer("v_head_dim")];
  const bytes = tensor.data.length / (heads * (nope + value) * rank);
  const element = (row: number, col: number): Uint8Array =>
    tensor.data.subarray((row * rank + col) * bytes, (row * rank + col + 1) * bytes);
  const stack = (
    name: string,
    shape: readonly [number, number],
    at: (head: number, row: number, col: number) => Uint8Array,
  ): GgufTensor => {
    const [rows, cols] = shape;
    const data = Array.from({ length: heads * rows * cols }, (_, i) =>
      at(Math.floor(i / (rows * cols)), Math.floor(i / cols) % rows, i % cols),
    );
    const all = { shape: [heads, ...shape], data: Buffer.concat(data) };
    return { name: `${path}${name}.weight`, type, ...all };
  };
  return [
    stack("k_b_proj", [rank, nope], (head, r, n) => element(head * (nope + value) + n, r)),
    stack("v_b_proj", [value, rank], (head, v, r) => element(head * (nope + value) + nope + v, r)),
  ];
}

/** By keys without the architecture's name; of older files, which have `attn_kv_b`, where `isSplit` is not set. */
export function deepSeekMetadata(
  config: ConfigReader,
  isSplit: boolean,
): Record<string, GgufValue> {
  const integer = (field: string): GgufValue => u32(config.integer(field));
  const [rank, rope] = [config.integer("kv_lora_rank"), config.integer("qk_rope_head_dim")];
  const key = u32(config.integer("qk_nope_head_dim") + rope);
  const queryRank = config.optionalInteger("q_lora_rank");
  return {
    ...(queryRank !== undefined && { "attention.q_lora_rank": u32(queryRank) }),
    "attention.kv_lora_rank": u32(rank),
    "attention.key_length": isSplit ? u32(rank + rope) : key,
    "attention.value_length": isSplit ? u32(rank) : integer("v_head_dim"),
    ...(isSplit && {
      "attention.head_count_kv": u32(1),
      "attention.key_length_mla": key,
      "attention.value_length_mla": integer("v_head_dim"),
    }),
    leading_dense_block_count: integer("first_k_dense_replace"),
    expert_count: integer("n_routed_experts"),
    expert_used_count: integer("num_experts_per_tok"),
    expert_shared_count: integer("n_shared_experts"),
    expert_feed_forward_length: integer("moe_intermediate_size"),
    expert_weights_scale: f32(config.number("routed_scaling_factor")),
    expert_weights_norm: bool(config.boolean("norm_topk_prob")),
    expert_group_count: integer("n_group"),
    expert_group_used_count: integer("topk_group"),
    // DeepSeek-V3 has sigmoids (2).
    expert_gating_func: u32(config.strings("architectures")[0] === "DeepseekV3ForCausalLM" ? 2 : 1),
    ...mscaleMetadata(config),
  };
}

function mscaleMetadata(config: ConfigReader): Record<string, GgufValue> {
  const rope = config.object("rope_parameters") ?? config.object("rope_scaling");
  const all = rope?.optionalNumber("mscale_all_dim");
  if (rope === undefined || all === undefined) return {};
  const factor = rope.number("factor");
  const ratio = yarnScale(factor, rope.number("mscale")) / yarnScale(factor, all);
  return {
    "rope.scaling.yarn_log_multiplier": f32(0.1 * all),
    ...(ratio !== 1 && { "rope.scaling.attn_factor": f32(ratio) }),
  };
}
