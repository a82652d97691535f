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
    [key("attention.head_count_kv"), u32(shape.num_key_value_heads)],
    [key("attention.key_length"), u32(shape.head_dim)],
    [key("attention.value_length"), u32(shape.head_dim)],
    [key("attention.layer_norm_rms_epsilon"), f32(shape.rms_norm_eps)],
    [key("rope.dimension_count"), u32(shape.head_dim)],
    [key("rope.freq_base"), f32(shape.rope_theta)],
    [key("vocab_size"), u32(shape.vocab_size)],
    ...expertKeys(shape).map(([suffix, value]) => [key(suffix), value]),
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

function expertKeys(shape) {
  if (shape.num_experts === undefined) return [];
  return [
    ["expert_count", u32(shape.num_experts)],
    ["expert_used_count", u32(shape.num_experts_per_tok)],
    ["expert_feed_forward_length", u32(shape.moe_intermediate_size)],
  ];
}
