/** How the files of one GGUF architecture map to a Hugging Face checkpoint. */
export interface GgufArchitecture {
  /** Hugging Face architecture. */
  readonly architecture: string;
  /** Tensors of layer N, named `blk.N.` and the key: Hugging Face names below `model.layers.N.`. */
  readonly layerTensors: Readonly<Record<string, string>>;
}

const attention = {
  attn_q: "self_attn.q_proj",
  attn_k: "self_attn.k_proj",
  attn_v: "self_attn.v_proj",
  attn_output: "self_attn.o_proj",
} as const;

const headNorms = { attn_q_norm: "self_attn.q_norm", attn_k_norm: "self_attn.k_norm" } as const;

const norms = { attn_norm: "input_layernorm", ffn_norm: "post_attention_layernorm" } as const;

const feedForward = {
  ffn_gate: "mlp.gate_proj",
  ffn_up: "mlp.up_proj",
  ffn_down: "mlp.down_proj",
} as const;

const llama = { ...attention, ...norms, ...feedForward };

/** By `general.architecture`. */
export const ggufArchitectures: ReadonlyMap<string, GgufArchitecture> = new Map([
  ["llama", { architecture: "LlamaForCausalLM", layerTensors: llama }],
  ["qwen2", { architecture: "Qwen2ForCausalLM", layerTensors: llama }],
  ["qwen3", { architecture: "Qwen3ForCausalLM", layerTensors: { ...llama, ...headNorms } }],
  [
    "phi3",
    {
      architecture: "Phi3ForCausalLM",
      layerTensors: {
        ...norms,
        attn_qkv: "self_attn.qkv_proj",
        attn_output: "self_attn.o_proj",
        ffn_up: "mlp.gate_up_proj",
        ffn_down: "mlp.down_proj",
      },
    },
  ],
  [
    "gemma3",
    {
      architecture: "Gemma3ForCausalLM",
      layerTensors: {
        ...attention,
        ...headNorms,
        ...feedForward,
        attn_norm: "input_layernorm",
        post_attention_norm: "post_attention_layernorm",
        ffn_norm: "pre_feedforward_layernorm",
        post_ffw_norm: "post_feedforward_layernorm",
      },
    },
  ],
]);

const modelTensors: Readonly<Record<string, string>> = {
  token_embd: "model.embed_tokens",
  output_norm: "model.norm",
  output: "lm_head",
};

/** Divisors of the rotary frequencies, read with the config. */
export const ropeFactors = "rope_freqs.weight";
/** Divisors for short and long contexts (LongRoPE); the config refuses them. */
export const longRopeFactors = "rope_factors_long.weight";
const configTensors: ReadonlySet<string> = new Set([
  ropeFactors,
  longRopeFactors,
  "rope_factors_short.weight",
]);

/**
 * The Hugging Face name of a tensor: undefined for those that belong to the config, null for one
 * that this architecture does not have.
 */
export function tensorName(
  { layerTensors }: GgufArchitecture,
  name: string,
): string | undefined | null {
  if (configTensors.has(name)) return undefined;
  const [, layer, stem = "", kind] =
    /^(?:blk\.(\d{1,4})\.)?([a-z_]+)\.(weight|bias)$/.exec(name) ?? [];
  const table = layer === undefined ? modelTensors : layerTensors;
  if (!Object.hasOwn(table, stem)) return null;
  const prefix = layer === undefined ? "" : `model.layers.${Number(layer)}.`;
  return `${prefix}${table[stem]}.${kind}`;
}
