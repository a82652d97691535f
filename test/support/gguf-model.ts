import { readFile } from "node:fs/promises";
import type { ConfigReader } from "../../lib/loading/config.js";
import { openModelDirectory } from "../../lib/loading/model-directory.js";
import { inverseFrequencies, ropeParameters } from "../../lib/loading/rope.js";
import type { TensorEntry } from "../../lib/loading/safetensors.js";
import { stackExperts } from "./gguf-experts.js";
import { deepSeekMetadata, deepSeekNames, splitUpProjection } from "./gguf-deepseek.js";
import { f32, list, tensorTypeIds, text, u32, writeGguf } from "./gguf-writer.js";
import type { GgufContent, GgufTensor, GgufValue } from "./gguf-writer.js";

/** Names in a layer, GGUF by Hugging Face. */
const layerNames: Readonly<Record<string, string>> = {
  ...deepSeekNames,
  input_layernorm: "attn_norm",
  post_attention_layernorm: "ffn_norm",
  "self_attn.q_proj": "attn_q",
  "self_attn.k_proj": "attn_k",
  "self_attn.v_proj": "attn_v",
  "self_attn.qkv_proj": "attn_qkv",
  "self_attn.o_proj": "attn_output",
  "self_attn.q_norm": "attn_q_norm",
  "self_attn.k_norm": "attn_k_norm",
  "mlp.gate_proj": "ffn_gate",
  "mlp.up_proj": "ffn_up",
  "mlp.gate_up_proj": "ffn_up",
  "mlp.down_proj": "ffn_down",
  "mlp.gate": "ffn_gate_inp",
  "mlp.experts.gate_proj": "ffn_gate_exps",
  "mlp.experts.up_proj": "ffn_up_exps",
  "mlp.experts.down_proj": "ffn_down_exps",
  "block_sparse_moe.gate": "ffn_gate_inp",
  "block_sparse_moe.experts.w1": "ffn_gate_exps",
  "block_sparse_moe.experts.w3": "ffn_up_exps",
  "block_sparse_moe.experts.w2": "ffn_down_exps",
};

const gptOssNames: Readonly<Record<string, string>> = {
  ...layerNames,
  post_attention_layernorm: "post_attention_norm",
  "self_attn.sinks": "attn_sinks.weight",
  "mlp.router": "ffn_gate_inp",
};

const gemmaNames: Readonly<Record<string, string>> = {
  ...layerNames,
  post_attention_layernorm: "post_attention_norm",
  pre_feedforward_layernorm: "ffn_norm",
  post_feedforward_layernorm: "post_ffw_norm",
};

const modelNames: Readonly<Record<string, string>> = {
  "model.embed_tokens": "token_embd",
  "model.norm": "output_norm",
  lm_head: "output",
};

const architectures: Readonly<Record<string, string>> = {
  LlamaForCausalLM: "llama",
  MistralForCausalLM: "llama",
  Qwen2ForCausalLM: "qwen2",
  Qwen3ForCausalLM: "qwen3",
  Phi3ForCausalLM: "phi3",
  Gemma3ForCausalLM: "gemma3",
  MixtralForCausalLM: "llama",
  Qwen3MoeForCausalLM: "qwen3moe",
  GptOssForCausalLM: "gpt-oss",
  DeepseekV2ForCausalLM: "deepseek2",
  DeepseekV3ForCausalLM: "deepseek2",
};

/**
 * A Hugging Face directory as the content of a GGUF file, converted as llama.cpp's script does:
 * queries and keys of Llama are permuted, norms of Gemma hold the whole weight, matrices of experts
 * are stacked, those of latent attention split unless `splitsLatents` is false, and `llama3` becomes
 * factors of the rotary embedding.
 */
export async function ggufOfDirectory(
  directory: string,
  { splitsLatents = true }: { readonly splitsLatents?: boolean } = {},
): Promise<GgufContent> {
  const { config, checkpoint } = await openModelDirectory(directory);
  const architecture = architectures[config.strings("architectures")[0]!]!;
  const stored: GgufTensor[] = [];
  for (const [name, entry] of checkpoint.tensors) {
    const data = await convert(architecture, config, name, entry);
    const type = tensorTypeIds[entry.dtype as "F32" | "F16" | "BF16"];
    const tensor = { name, shape: entry.shape, type, data };
    stored.push(...(splitsLatents ? splitUpProjection(config, tensor) : [tensor]));
  }
  const tensors = stackExperts(stored).map(({ name, ...rest }): GgufTensor => {
    return Object.assign({ name: ggufName(architecture, name) }, rest);
  });
  tensors.push(...ropeFactors(config));
  const metadata = metadataOf(architecture, config);
  if (architecture === "deepseek2") {
    for (const [key, value] of Object.entries(deepSeekMetadata(config, splitsLatents))) {
      metadata[`${architecture}.${key}`] = value;
    }
  }
  return { metadata, tensors };
}

function ggufName(architecture: string, name: string): string {
  const pattern = /^(?:model\.layers\.(\d+)\.)?(.*?)(?:\.(weight|bias))?$/;
  const [, layer, stem = "", kind = "weight"] = pattern.exec(name)!;
  if (layer === undefined) return `${modelNames[stem]}.${kind}`;
  const names = { gemma3: gemmaNames, "gpt-oss": gptOssNames }[architecture] ?? layerNames;
  const found = names[stem]!;
  return `blk.${layer}.${found.includes(".") ? found : `${found}.${kind}`}`;
}

async function convert(
  architecture: string,
  config: ConfigReader,
  name: string,
  { file, offset, bytes, shape }: TensorEntry,
): Promise<Buffer> {
  const data = Buffer.from((await readFile(file)).subarray(offset, offset + bytes));
  if (architecture === "llama" && /\.[qk]_proj\./.test(name)) {
    const heads = name.includes(".q_proj.") ? "num_attention_heads" : "num_key_value_heads";
    return permute(data, shape[0]!, config.integer(heads));
  }
  if (architecture === "gemma3" && name.endsWith("norm.weight")) {
    for (let at = 0; at < bytes; at += 4) data.writeFloatLE(data.readFloatLE(at) + 1, at);
  }
  return data;
}

/** In each head rows i and i + half become neighbours. */
function permute(data: Buffer, rows: number, heads: number): Buffer {
  const rowBytes = data.length / rows;
  const dim = rows / heads;
  const order = Array.from({ length: rows }, (_, row) => {
    const inHead = row % dim;
    return row - inHead + (inHead >> 1) + (inHead % 2) * (dim / 2);
  });
  return Buffer.concat(order.map((row) => data.subarray(row * rowBytes, (row + 1) * rowBytes)));
}

function headDim(config: ConfigReader): number {
  const fallback = config.integer("hidden_size") / config.integer("num_attention_heads");
  return config.integer("qk_rope_head_dim", {
    default: config.integer("head_dim", { default: fallback }),
  });
}

function metadataOf(architecture: string, config: ConfigReader): Record<string, GgufValue> {
  const key = (name: string): string => `${architecture}.${name}`;
  const heads = config.integer("num_attention_heads");
  const dim = headDim(config);
  const rope = ropeParameters(config, { headDim: dim });
  const metadata: Record<string, GgufValue> = {
    "general.architecture": text(architecture),
    "general.name": text("converted by a test"),
    [key("block_count")]: u32(config.integer("num_hidden_layers")),
    [key("context_length")]: u32(config.integer("max_position_embeddings")),
    [key("embedding_length")]: u32(config.integer("hidden_size")),
    [key("feed_forward_length")]: u32(config.integer("intermediate_size")),
    [key("attention.head_count")]: u32(heads),
    [key("attention.head_count_kv")]: u32(config.integer("num_key_value_heads")),
    [key("attention.key_length")]: u32(dim),
    [key("attention.value_length")]: u32(dim),
    [key("attention.layer_norm_rms_epsilon")]: f32(config.number("rms_norm_eps")),
    [key("rope.dimension_count")]: u32(rope.rotaryDim),
    [key("rope.freq_base")]: f32(rope.theta),
  };
  const window = config.optionalInteger("sliding_window");
  if (window !== undefined) metadata[key("attention.sliding_window")] = u32(window);
  if (rope.type === "linear" || rope.type === "yarn") {
    metadata[key("rope.scaling.type")] = text(rope.type);
    metadata[key("rope.scaling.factor")] = f32(rope.factor);
  }
  if (rope.type === "longrope") {
    metadata[key("rope.scaling.attn_factor")] = f32(rope.attentionFactor);
  }
  if (rope.type === "yarn" || rope.type === "longrope") {
    const original = rope.originalMaxPositionEmbeddings;
    metadata[key("rope.scaling.original_context_length")] = u32(original);
  }
  const numExperts = config.optionalInteger("num_local_experts");
  if (numExperts !== undefined) {
    const width = config.optionalInteger("moe_intermediate_size");
    const inner = width ?? config.integer("intermediate_size");
    metadata[key("expert_count")] = u32(numExperts);
    metadata[key("expert_used_count")] = u32(config.integer("num_experts_per_tok"));
    metadata[key("expert_feed_forward_length")] = u32(inner);
  }
  if (architecture === "gemma3") {
    metadata[key("attention.scale")] = f32(1 / Math.sqrt(config.number("query_pre_attn_scalar")));
    const types = config.strings("layer_types");
    const isLocal = types.map((type) => (type === "sliding_attention" ? 1 : 0));
    const pattern = config.integer("sliding_window_pattern", { default: 6 });
    metadata[key("attention.sliding_window_pattern")] =
      types.length > 0 ? list("bool", isLocal) : u32(pattern);
  }
  return metadata;
}

/** What `llama3` and `longrope` divide each frequency by. */
function ropeFactors(config: ConfigReader): GgufTensor[] {
  const rope = ropeParameters(config, { headDim: headDim(config) });
  if (rope.type === "longrope") {
    return [
      vectorTensor("rope_factors_short.weight", Float32Array.from(rope.shortFactors)),
      vectorTensor("rope_factors_long.weight", Float32Array.from(rope.longFactors)),
    ];
  }
  if (rope.type !== "llama3") return [];
  const { theta, rotaryDim } = rope;
  const scaled = inverseFrequencies(rope, Infinity).values;
  const plain = inverseFrequencies({ type: "default", theta, rotaryDim }, Infinity).values;
  const factors = plain.map((value, i) => value / scaled[i]!);
  return [vectorTensor("rope_freqs.weight", factors)];
}

function vectorTensor(name: string, values: Float32Array<ArrayBuffer>): GgufTensor {
  const data = new Uint8Array(values.buffer);
  return { name, shape: [values.length], type: tensorTypeIds.F32, data };
}

/** A Hugging Face directory as the bytes of a GGUF file. */
export async function writeGgufOf(directory: string, more: GgufContent = {}): Promise<Buffer> {
  const { metadata, tensors } = await ggufOfDirectory(directory);
  return writeGguf({ ...more, metadata: { ...metadata, ...more.metadata }, tensors: tensors! });
}
