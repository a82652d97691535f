import type { ArchitectureKeys } from "./architecture-keys.js";
import { deepSeekFields } from "./deepseek-fields.js";
import type { GgufHeader } from "./header.js";

export type Fields = Readonly<Record<string, unknown>>;

/** The fields of config.json that only one family has. */
export function familyFields(header: GgufHeader, keys: ArchitectureKeys): Fields {
  switch (keys.name) {
    case "llama":
      return llamaFields(keys);
    case "qwen3moe":
      return qwen3MoeFields(keys);
    case "gpt-oss":
      return gptOssFields(keys);
    case "deepseek2":
      return deepSeekFields(header, keys);
    case "phi3":
      return { sliding_window: keys.get("attention.sliding_window") || null };
    case "gemma3":
      return gemma3Fields(header, keys);
    default:
      return {};
  }
}

/** Rows of queries and keys are stored so that the pairs of the rotary embedding are neighbours. */
function llamaFields(keys: ArchitectureKeys): Fields {
  const window = keys.get("attention.sliding_window");
  if (hasExperts(keys)) {
    return { ...mixtureFields(keys, "softmax"), rope_interleave: true, sliding_window: window };
  }
  const mistral = { architectures: ["MistralForCausalLM"], sliding_window: window };
  return { rope_interleave: true, ...(window ? mistral : {}) };
}

/** Whether a file of the architecture `llama` is a Mixtral. */
export function hasExperts(keys: ArchitectureKeys): boolean {
  return Boolean(keys.get("expert_count"));
}

/** Numbers of the ways to make weights of the experts' logits. */
export const gatingFunctions = { softmax: 1, sigmoid: 2, softmaxOfChosen: 3 } as const;

/** Experts that are chosen among all, as `gating` says, in every layer. */
function mixtureFields(keys: ArchitectureKeys, gating: keyof typeof gatingFunctions): Fields {
  keys.expect("expert_gating_func", [gatingFunctions[gating]]);
  keys.expect("expert_weights_scale", [1]);
  keys.expect("expert_group_count", [1]);
  for (const key of ["expert_shared_count", "leading_dense_block_count"]) keys.expect(key, []);
  return {
    num_local_experts: keys.required("expert_count"),
    num_experts_per_tok: keys.required("expert_used_count"),
    stacked_experts: true,
  };
}

function qwen3MoeFields(keys: ArchitectureKeys): Fields {
  const width = keys.required("expert_feed_forward_length");
  return {
    ...mixtureFields(keys, "softmax"),
    // No layer has one without experts.
    intermediate_size: width,
    moe_intermediate_size: width,
    norm_topk_prob: keys.get("expert_weights_norm") ?? true,
  };
}

function gptOssFields(keys: ArchitectureKeys): Fields {
  return {
    ...mixtureFields(keys, "softmaxOfChosen"),
    intermediate_size: keys.required("expert_feed_forward_length"),
    sliding_window: keys.required("attention.sliding_window"),
  };
}

/** Every layer but each sixth has the window, unless the file says otherwise. */
function gemma3Fields({ tensors }: GgufHeader, keys: ArchitectureKeys): Fields {
  const pattern = keys.get("attention.sliding_window_pattern");
  const layers = Array.isArray(pattern)
    ? { layer_types: pattern.map((isLocal) => (isLocal ? "sliding_attention" : "full_attention")) }
    : { sliding_window_pattern: pattern };
  return {
    ...layers,
    sliding_window: keys.get("attention.sliding_window"),
    rope_theta: keys.get("rope.freq_base") ?? 1e6,
    rope_local_base_freq: keys.get("rope.freq_base_swa") ?? 1e4,
    query_pre_attn_scalar: queryScalar(keys),
    attn_logit_softcapping: keys.get("attn_logit_softcapping"),
    final_logit_softcapping: keys.get("final_logit_softcapping"),
    dtype: tensors.get("token_embd.weight")?.dtype === "BF16" ? "bfloat16" : "float32",
    rms_norm_weight_offset: 0,
  };
}

/** Of all sizes that were released, only the one of 62 layers has another scale than its heads' length. */
function queryScalar(keys: ArchitectureKeys): number {
  const scale = keys.get("attention.scale");
  if (typeof scale === "number" && scale > 0) return 1 / scale ** 2;
  if (keys.get("block_count") !== 62) return keys.headDim();
  return keys.number("embedding_length", NaN) / keys.number("attention.head_count", NaN);
}
