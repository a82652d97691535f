// The shapes of released models, with the names that Hugging Face's config.json has for them.

/** By name; every one is tied but `tiny`, which is for tests. */
export const shapes = {
  "smollm2-135m": {
    architecture: "LlamaForCausalLM",
    vocab_size: 49_152,
    hidden_size: 576,
    intermediate_size: 1536,
    num_hidden_layers: 30,
    num_attention_heads: 9,
    num_key_value_heads: 3,
    head_dim: 64,
    max_position_embeddings: 8192,
    rms_norm_eps: 1e-5,
    rope_theta: 100_000,
    tie_word_embeddings: true,
  },
  "qwen2.5-0.5b": {
    architecture: "Qwen2ForCausalLM",
    vocab_size: 151_936,
    hidden_size: 896,
    intermediate_size: 4864,
    num_hidden_layers: 24,
    num_attention_heads: 14,
    num_key_value_heads: 2,
    head_dim: 64,
    max_position_embeddings: 32_768,
    rms_norm_eps: 1e-6,
    rope_theta: 1_000_000,
    tie_word_embeddings: true,
  },
  "llama-3.2-1b": {
    architecture: "LlamaForCausalLM",
    vocab_size: 128_256,
    hidden_size: 2048,
    intermediate_size: 8192,
    num_hidden_layers: 16,
    num_attention_heads: 32,
    num_key_value_heads: 8,
    head_dim: 64,
    max_position_embeddings: 131_072,
    rms_norm_eps: 1e-5,
    rope_theta: 500_000,
    rope_scaling: {
      rope_type: "llama3",
      factor: 32,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 8192,
    },
    tie_word_embeddings: true,
  },
  tiny: {
    architecture: "LlamaForCausalLM",
    vocab_size: 1024,
    hidden_size: 256,
    intermediate_size: 512,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    head_dim: 64,
    max_position_embeddings: 512,
    rms_norm_eps: 1e-5,
    rope_theta: 10_000,
    tie_word_embeddings: false,
  },
};

/**
 * The tensors of a shape: `name` as in safetensors, `gguf` as in GGUF files, `shape` [rows, cols] or [length]. Values have
 * the standard deviation `std` around `mean`. `heads`: rows that GGUF files of Llama permute, this many heads.
 */
export function tensorsOf(shape) {
  const { vocab_size, hidden_size: hidden, num_hidden_layers } = shape;
  const tensors = [
    matrix("model.embed_tokens", "token_embd", vocab_size, hidden, 2 / Math.sqrt(hidden)),
  ];
  for (let layer = 0; layer < num_hidden_layers; layer++)
    tensors.push(...layerTensors(shape, layer));
  tensors.push(norm("model.norm", "output_norm", hidden));
  if (!shape.tie_word_embeddings) {
    tensors.push(matrix("lm_head", "output", vocab_size, hidden, 2 / Math.sqrt(hidden)));
  }
  return tensors;
}

function layerTensors(shape, layer) {
  const { hidden_size: hidden, intermediate_size: inner, head_dim } = shape;
  const { num_attention_heads: heads, num_key_value_heads: kvHeads } = shape;
  const hf = (name) => `model.layers.${layer}.${name}`;
  const gguf = (name) => `blk.${layer}.${name}`;
  const linear = (name, other, rows, cols, std = 1 / Math.sqrt(cols)) =>
    matrix(hf(name), gguf(other), rows, cols, std);
  // What a layer adds shrinks with their number, so that the sum of all stays of the size of one.
  const residual = (cols) => 1 / Math.sqrt(cols * 2 * shape.num_hidden_layers);
  const attention = [
    { ...linear("self_attn.q_proj", "attn_q", heads * head_dim, hidden), heads },
    { ...linear("self_attn.k_proj", "attn_k", kvHeads * head_dim, hidden), heads: kvHeads },
    linear("self_attn.v_proj", "attn_v", kvHeads * head_dim, hidden),
    linear("self_attn.o_proj", "attn_output", hidden, heads * head_dim, residual(heads * head_dim)),
  ];
  const biases = attention.slice(0, 3).map(({ name, gguf, shape: [rows] }) => {
    const [hfBias, ggufBias] = [name, gguf].map((weight) => weight.replace(/weight$/, "bias"));
    return { name: hfBias, gguf: ggufBias, shape: [rows], mean: 0, std: 0.1 };
  });
  return [
    norm(hf("input_layernorm"), gguf("attn_norm"), hidden),
    ...attention,
    ...(shape.architecture === "Qwen2ForCausalLM" ? biases : []),
    norm(hf("post_attention_layernorm"), gguf("ffn_norm"), hidden),
    linear("mlp.gate_proj", "ffn_gate", inner, hidden),
    linear("mlp.up_proj", "ffn_up", inner, hidden),
    linear("mlp.down_proj", "ffn_down", hidden, inner, residual(inner)),
  ];
}

function matrix(name, gguf, rows, cols, std) {
  return { name: `${name}.weight`, gguf: `${gguf}.weight`, shape: [rows, cols], mean: 0, std };
}

function norm(name, gguf, length) {
  return { name: `${name}.weight`, gguf: `${gguf}.weight`, shape: [length], mean: 1, std: 0.05 };
}
