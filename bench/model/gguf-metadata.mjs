import { architectures } from "./architectures.mjs";
import { array, f32, integer, string, text, u32 } from "./gguf-values.mjs";
import { chatTemplate, eosTokenId, makeVocabulary, specialTokens } from "./tokenizer.mjs";

/** The metadata of a file: keys and values. */
export function metadataOf(shape, name) {
  const { tokens, merges } = makeVocabulary(shape.vocab_size);
  const { gguf } = architectures[shape.architecture];
  const key = (suffix) => `${gguf}.${suffix}`;
  return [
    ["general.architecture", string(gguf)],
    ["general.name", string(name)],
    [key("block_count"), u32(shape.num_hidden_layers)],
    [key("context_length"), u32(shape.max_position_embeddings)],
    [key("embedding_length"), u32(shape.hidden_size)],
    [key("feed_forward_length"), u32(shape.intermediate_size)],
    [key("attention.head_count"), u32(shape.num_attention_heads)],
    [key("attention.layer_norm_rms_epsilon"), f32(shape.rms_norm_eps)],
    [key("rope.freq_base"), f32(shape.rope_theta)],
    [key("vocab_size"), u32(shape.vocab_size)],
    ...[headKeys, expertKeys, yarnKeys].flatMap((keysOf) =>
      keysOf(shape).map(([suffix, value]) => [key(suffix), value]),
    ),
    ["tokenizer.ggml.model", string("gpt2")],
    ["tokenizer.ggml.pre", string("gpt-2")],
    ["tokenizer.ggml.tokens", array(8, tokens.map(text))],
    [
      "tokenizer.ggml.token_type",
      array(
        5,
        tokens.map((_, id) => integer(tokenType(id))),
      ),
    ],
    ["tokenizer.ggml.merges", array(8, merges.map(text))],
    ["tokenizer.ggml.eos_token_id", u32(eosTokenId)],
    ["tokenizer.ggml.bos_token_id", u32(0)],
    ["tokenizer.ggml.add_bos_token", Buffer.concat([integer(7), Buffer.of(0)])],
    ["tokenizer.chat_template", string(chatTemplate)],
  ];
}

/** 3: control, 1: normal. */
function tokenType(id) {
  return id < specialTokens.length ? 3 : 1;
}

/** Latent attention has one head of keys and values, which is a latent and the part with rope. */
function headKeys(shape) {
  const { kv_lora_rank: rank, q_lora_rank, qk_rope_head_dim: rope } = shape;
  if (rank === undefined) {
    return [
      ["attention.head_count_kv", u32(shape.num_key_value_heads)],
      ["attention.key_length", u32(shape.head_dim)],
      ["attention.value_length", u32(shape.head_dim)],
      ["rope.dimension_count", u32(shape.head_dim)],
    ];
  }
  return [
    ...(q_lora_rank === null ? [] : [["attention.q_lora_rank", u32(q_lora_rank)]]),
    ["attention.kv_lora_rank", u32(rank)],
    ["attention.head_count_kv", u32(1)],
    ["attention.key_length", u32(rank + rope)],
    ["attention.value_length", u32(rank)],
    ["attention.key_length_mla", u32(shape.qk_nope_head_dim + rope)],
    ["attention.value_length_mla", u32(shape.v_head_dim)],
    ["rope.dimension_count", u32(rope)],
  ];
}

/** llama.cpp wants some of them of dense models with latent attention, too. */
function expertKeys(shape) {
  const experts = shape.num_experts ?? shape.n_routed_experts ?? 0;
  const width = shape.moe_intermediate_size ?? shape.intermediate_size;
  const counts = [
    ["expert_count", u32(experts)],
    ["expert_used_count", u32(shape.num_experts_per_tok ?? 0)],
  ];
  const isLatent = shape.kv_lora_rank !== undefined;
  return [
    ...(experts > 0 ? counts : []),
    ...(experts > 0 || isLatent ? [["expert_feed_forward_length", u32(width)]] : []),
    ...(isLatent
      ? [
          ["leading_dense_block_count", u32(shape.first_k_dense_replace)],
          ["expert_shared_count", u32(shape.n_shared_experts ?? 0)],
          ["expert_weights_scale", f32(1)],
        ]
      : []),
  ];
}

function yarnKeys({ rope_scaling: scaling }) {
  if (scaling?.rope_type !== "yarn") return [];
  return [
    ["rope.scaling.type", string("yarn")],
    ["rope.scaling.factor", f32(scaling.factor)],
    ["rope.scaling.original_context_length", u32(scaling.original_max_position_embeddings)],
    ["rope.scaling.yarn_log_multiplier", f32(0.1 * scaling.mscale_all_dim)],
  ];
}
