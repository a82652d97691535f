// What the architectures of shapes.mjs are called, by their Hugging Face names: `gguf` in GGUF files, `modelType` in config.json;
// without it, models are written as GGUF files only. `permutes`: GGUF files hold the rows of queries and keys with the pairs of
// the rotary embedding as neighbours.
export const architectures = {
  LlamaForCausalLM: { gguf: "llama", modelType: "llama", permutes: true },
  Qwen2ForCausalLM: { gguf: "qwen2", modelType: "qwen2" },
  Qwen3MoeForCausalLM: { gguf: "qwen3moe", modelType: "qwen3_moe" },
  DeepseekV2ForCausalLM: { gguf: "deepseek2" },
};
