/**
 * The tensors of a shape: `name` as in safetensors, `gguf` as in GGUF files, `shape` [rows, cols], [length], or
 * [experts, rows, cols], which safetensors hold expert by expert; `name` is then a function of the expert. Latent attention
 * has the tensors of GGUF files. Values have the standard deviation `std` around `mean`. `heads`: rows that GGUF files of
 * Llama permute, this many heads. `type`: the tensor's own in GGUF files, whatever that of the model is.
 */
export function tensorsOf(shape) {
  const { vocab_size, hidden_size: hidden, num_hidden_layers } = shape;
  const vocabulary = (name, gguf) =>
    matrix(name, gguf, [vocab_size, hidden], { std: 2 / Math.sqrt(hidden) });
  const tensors = [vocabulary("model.embed_tokens", "token_embd")];
  for (let layer = 0; layer < num_hidden_layers; layer++)
    tensors.push(...layerTensors(shape, layer));
  tensors.push(norm("model.norm", "output_norm", hidden));
  if (!shape.tie_word_embeddings) tensors.push(vocabulary("lm_head", "output"));
  return tensors;
}

function layerTensors(shape, layer) {
  const { hidden_size: hidden, num_hidden_layers } = shape;
  const at = {
    hf: (name) => `model.layers.${layer}.${name}`,
    gguf: (name) => `blk.${layer}.${name}`,
    // What a layer adds shrinks with their number, so that the sum of all stays of the size of one.
    residual: (cols) => 1 / Math.sqrt(cols * 2 * num_hidden_layers),
  };
  return [
    norm(at.hf("input_layernorm"), at.gguf("attn_norm"), hidden),
    ...(shape.kv_lora_rank === undefined
      ? attentionTensors(shape, at)
      : latentAttentionTensors(shape, at)),
    norm(at.hf("post_attention_layernorm"), at.gguf("ffn_norm"), hidden),
    ...feedForwardTensors(shape, layer, at),
  ];
}

function feedForwardTensors(shape, layer, at) {
  const experts = shape.num_experts ?? shape.n_routed_experts ?? 0;
  if (experts === 0 || layer < (shape.first_k_dense_replace ?? 0)) return mlpTensors(shape, at);
  const tensors = expertTensors(shape, experts, at);
  if (shape.n_shared_experts === undefined) return tensors;
  const intermediate_size = shape.n_shared_experts * shape.moe_intermediate_size;
  const shared = { path: "mlp.shared_experts", suffix: "_shexp" };
  return [...tensors, ...mlpTensors({ ...shape, intermediate_size }, at, shared)];
}

function attentionTensors(shape, { hf, gguf, residual }) {
  const { architecture, hidden_size: hidden, head_dim } = shape;
  const { num_attention_heads: heads, num_key_value_heads: kvHeads } = shape;
  const linear = (name, other, shape, options) =>
    matrix(hf(`self_attn.${name}`), gguf(other), shape, options);
  const width = heads * head_dim;
  const inputs = [
    linear("q_proj", "attn_q", [width, hidden], { heads }),
    linear("k_proj", "attn_k", [kvHeads * head_dim, hidden], { heads: kvHeads }),
    linear("v_proj", "attn_v", [kvHeads * head_dim, hidden]),
  ];
  const headNorms = ["q", "k"].map((x) =>
    norm(hf(`self_attn.${x}_norm`), gguf(`attn_${x}_norm`), head_dim),
  );
  return [
    ...inputs,
    linear("o_proj", "attn_output", [hidden, width], { std: residual(width) }),
    ...(architecture === "Qwen2ForCausalLM" ? inputs.map(biasOf) : []),
    ...(architecture === "Qwen3MoeForCausalLM" ? headNorms : []),
  ];
}

/** Queries with a latent of their own, or without one; W_UK is transposed. */
function latentAttentionTensors(shape, { hf, gguf, residual }) {
  const { hidden_size: hidden, num_attention_heads: heads } = shape;
  const { q_lora_rank: queryRank, kv_lora_rank: rank, v_head_dim: value } = shape;
  const { qk_nope_head_dim: nope, qk_rope_head_dim: rope } = shape;
  const linear = (name, other, shape, options) =>
    matrix(hf(`self_attn.${name}`), gguf(other), shape, options);
  const latentNorm = (x, length) =>
    norm(hf(`self_attn.${x}_a_layernorm`), gguf(`attn_${x}_a_norm`), length);
  const queryRows = heads * (nope + rope);
  const throughLatent = [
    linear("q_a_proj", "attn_q_a", [queryRank, hidden]),
    latentNorm("q", queryRank),
    linear("q_b_proj", "attn_q_b", [queryRows, queryRank]),
  ];
  const direct = [linear("q_proj", "attn_q", [queryRows, hidden])];
  return [
    ...(queryRank === null ? direct : throughLatent),
    linear("kv_a_proj_with_mqa", "attn_kv_a_mqa", [rank + rope, hidden]),
    latentNorm("kv", rank),
    linear("k_b_proj", "attn_k_b", [heads, rank, nope]),
    linear("v_b_proj", "attn_v_b", [heads, value, rank]),
    linear("o_proj", "attn_output", [hidden, heads * value], { std: residual(heads * value) }),
  ];
}

function mlpTensors(
  { hidden_size: hidden, intermediate_size: inner },
  { hf, gguf, residual },
  { path = "mlp", suffix = "" } = {},
) {
  const linear = (name, shape, options) =>
    matrix(hf(`${path}.${name}_proj`), gguf(`ffn_${name}${suffix}`), shape, options);
  return [
    linear("gate", [inner, hidden]),
    linear("up", [inner, hidden]),
    linear("down", [hidden, inner], { std: residual(inner) }),
  ];
}

/** As llama.cpp writes them, routers stay float32. */
function expertTensors(shape, experts, { hf, gguf, residual }) {
  const { hidden_size: hidden, moe_intermediate_size: inner } = shape;
  const stack = (name, shape, options) => {
    const nameOf = (expert) => hf(`mlp.experts.${expert}.${name}_proj`);
    return matrix(nameOf, gguf(`ffn_${name}_exps`), [experts, ...shape], options);
  };
  return [
    { ...matrix(hf("mlp.gate"), gguf("ffn_gate_inp"), [experts, hidden]), type: "F32" },
    stack("gate", [inner, hidden]),
    stack("up", [inner, hidden]),
    stack("down", [hidden, inner], { std: residual(inner) }),
  ];
}

function matrix(name, gguf, shape, options = {}) {
  const weight = typeof name === "string" ? `${name}.weight` : (i) => `${name(i)}.weight`;
  const std = 1 / Math.sqrt(shape.at(-1));
  return { name: weight, gguf: `${gguf}.weight`, shape, mean: 0, std, ...options };
}

function biasOf({ name, gguf, shape: [rows] }) {
  const [hfBias, ggufBias] = [name, gguf].map((weight) => weight.replace(/weight$/, "bias"));
  return { name: hfBias, gguf: ggufBias, shape: [rows], mean: 0, std: 0.1 };
}

function norm(name, gguf, length) {
  return { name: `${name}.weight`, gguf: `${gguf}.weight`, shape: [length], mean: 1, std: 0.05 };
}
