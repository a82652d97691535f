import { describe } from "../../errors.js";
import { ArchitectureKeys } from "./architecture-keys.js";
import { hasExperts } from "./family-fields.js";
import type { GgufHeader } from "./header.js";
import { unsupportedInFile } from "./unsupported.js";

/** How the files of one GGUF architecture map to a Hugging Face checkpoint. */
export interface GgufArchitecture {
  /** Hugging Face architecture. */
  readonly architecture: string;
  /**
   * Tensors of layer N, named `blk.N.`, the key and `.weight` or `.bias`: Hugging Face names below `model.layers.N.`, to
   * which the same is added. Where that is not so, the key has it, too.
   */
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

/** Matrices of all experts: one tensor each. */
const experts = {
  ffn_gate_inp: "mlp.gate",
  ffn_gate_exps: "mlp.experts.gate_proj",
  ffn_up_exps: "mlp.experts.up_proj",
  ffn_down_exps: "mlp.experts.down_proj",
} as const;

const mixtral: GgufArchitecture = {
  architecture: "MixtralForCausalLM",
  layerTensors: {
    ...attention,
    ...norms,
    ffn_gate_inp: "block_sparse_moe.gate",
    ffn_gate_exps: "block_sparse_moe.experts.w1",
    ffn_up_exps: "block_sparse_moe.experts.w3",
    ffn_down_exps: "block_sparse_moe.experts.w2",
  },
};

/** Latent attention, and layers with or without experts. */
const deepseek2: GgufArchitecture = {
  architecture: "DeepseekV2ForCausalLM",
  layerTensors: {
    ...norms,
    ...feedForward,
    ...experts,
    attn_q: "self_attn.q_proj",
    attn_q_a: "self_attn.q_a_proj",
    attn_q_a_norm: "self_attn.q_a_layernorm",
    attn_q_b: "self_attn.q_b_proj",
    attn_kv_a_mqa: "self_attn.kv_a_proj_with_mqa",
    attn_kv_a_norm: "self_attn.kv_a_layernorm",
    attn_kv_b: "self_attn.kv_b_proj",
    attn_k_b: "self_attn.k_b_proj",
    attn_v_b: "self_attn.v_b_proj",
    attn_output: "self_attn.o_proj",
    "exp_probs_b.bias": "mlp.gate.e_score_correction_bias",
    ffn_gate_shexp: "mlp.shared_experts.gate_proj",
    ffn_up_shexp: "mlp.shared_experts.up_proj",
    ffn_down_shexp: "mlp.shared_experts.down_proj",
  },
};

/** By `general.architecture`; `llama` with experts is {@link mixtral}. */
const architectures: ReadonlyMap<string, GgufArchitecture> = new Map([
  ["llama", { architecture: "LlamaForCausalLM", layerTensors: llama }],
  ["qwen2", { architecture: "Qwen2ForCausalLM", layerTensors: llama }],
  ["qwen3", { architecture: "Qwen3ForCausalLM", layerTensors: { ...llama, ...headNorms } }],
  [
    "qwen3moe",
    {
      architecture: "Qwen3MoeForCausalLM",
      layerTensors: { ...attention, ...headNorms, ...norms, ...experts },
    },
  ],
  ["deepseek2", deepseek2],
  [
    "gpt-oss",
    {
      architecture: "GptOssForCausalLM",
      layerTensors: {
        ...attention,
        ...experts,
        attn_norm: "input_layernorm",
        post_attention_norm: "post_attention_layernorm",
        ffn_gate_inp: "mlp.router",
        "attn_sinks.weight": "self_attn.sinks",
      },
    },
  ],
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

/**
 * The architecture that the file names. @throws ERR_MODEL_UNSUPPORTED, `details.supported` lists
 * those that are known
 */
export function ggufArchitecture(header: GgufHeader): GgufArchitecture {
  const name = header.metadata.get("general.architecture");
  const known = typeof name === "string" ? architectures.get(name) : undefined;
  if (known === undefined) {
    const feature = `the architecture ${describe(name)}`;
    throw unsupportedInFile(header.file.path, feature, [...architectures.keys()]);
  }
  return name === "llama" && hasExperts(new ArchitectureKeys(header)) ? mixtral : known;
}

const modelTensors: Readonly<Record<string, string>> = {
  token_embd: "model.embed_tokens",
  output_norm: "model.norm",
  output: "lm_head",
};

/** Divisors of the rotary frequencies, read with the config. */
export const ropeFactors = "rope_freqs.weight";
/** Divisors for short and long contexts (LongRoPE). */
export const shortRopeFactors = "rope_factors_short.weight";
export const longRopeFactors = "rope_factors_long.weight";
const configTensors: ReadonlySet<string> = new Set([
  ropeFactors,
  shortRopeFactors,
  longRopeFactors,
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
  const prefix = layer === undefined ? "" : `model.layers.${Number(layer)}.`;
  const whole = `${stem}.${kind}`;
  if (Object.hasOwn(table, whole)) return `${prefix}${table[whole]}`;
  return Object.hasOwn(table, stem) ? `${prefix}${table[stem]}.${kind}` : null;
}
