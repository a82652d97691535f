import { describe, type PagodaError } from "../../errors.js";
import { ConfigReader } from "../config.js";
import { yarnScale } from "../rope.js";
import { withoutUndefined } from "../without-undefined.js";
import {
  ggufArchitectures,
  longRopeFactors,
  ropeFactors,
  type GgufArchitecture,
} from "./architectures.js";
import type { GgufHeader } from "./header.js";
import type { MetadataValue } from "./metadata.js";
import { unsupportedInFile } from "./unsupported.js";

type Fields = Readonly<Record<string, unknown>>;

/**
 * The architecture that the file names. @throws ERR_MODEL_UNSUPPORTED, `details.supported` lists
 * those that are known
 */
export function ggufArchitecture({ file, metadata }: GgufHeader): GgufArchitecture {
  const name = metadata.get("general.architecture");
  const known = typeof name === "string" ? ggufArchitectures.get(name) : undefined;
  if (known !== undefined) return known;
  throw unsupportedInFile(file.path, `the architecture ${describe(name)}`, [
    ...ggufArchitectures.keys(),
  ]);
}

/**
 * The metadata as the fields of a Hugging Face config.json, docs/gguf.md has the table. What it
 * lacks, or has of a wrong type, the reader of the field refuses.
 *
 * @param factors divisors of the rotary frequencies, if the file has them
 * @throws ERR_MODEL_UNSUPPORTED for what the config of these families cannot say
 */
export function ggufConfig(
  header: GgufHeader,
  factors: readonly number[] | undefined,
): ConfigReader {
  const { architecture } = ggufArchitecture(header);
  const keys = new ArchitectureKeys(header);
  const shared = sharedFields(header, keys, architecture);
  const fields = { ...shared, ...ropeFields(header, keys, factors), ...familyFields(header, keys) };
  return new ConfigReader(withoutUndefined(fields), header.file.path);
}

/** The metadata of the file's architecture, e.g. `llama.block_count`. */
class ArchitectureKeys {
  readonly name: string;
  readonly #header: GgufHeader;

  constructor(header: GgufHeader) {
    this.name = header.metadata.get("general.architecture") as string;
    this.#header = header;
  }

  get(key: string): MetadataValue | undefined {
    return this.#header.metadata.get(`${this.name}.${key}`);
  }

  /** For what config.json may leave out, but these files may not. @throws ERR_CONFIG_INVALID */
  required(key: string): MetadataValue {
    const value = this.get(key);
    if (value !== undefined) return value;
    const reader = new ConfigReader({}, this.#header.file.path);
    throw reader.error(`${this.name}.${key}`, "a value", undefined);
  }

  /** The number, or the one number that a list has for every layer. */
  uniform(key: string): MetadataValue | undefined {
    const value = this.get(key);
    if (!Array.isArray(value)) return value;
    if (value.length > 0 && value.every((item) => item === value[0])) return value[0] as number;
    throw this.unsupported(`different values of ${key} in different layers`);
  }

  number(key: string, fallback: number): number {
    const value = this.get(key);
    return typeof value === "number" ? value : fallback;
  }

  unsupported(feature: string): PagodaError {
    return unsupportedInFile(this.#header.file.path, feature);
  }
}

function sharedFields(header: GgufHeader, keys: ArchitectureKeys, architecture: string): Fields {
  const { tensors } = header;
  const head_dim = headDim(keys);
  if (keys.number("attention.value_length", head_dim) !== head_dim) {
    throw keys.unsupported("a value head of another length than the key head");
  }
  const hasBias = (name: string): boolean => tensors.has(`blk.0.${name}.bias`);
  return {
    architectures: [architecture],
    vocab_size: tensors.get("token_embd.weight")?.shape[0],
    hidden_size: keys.get("embedding_length"),
    intermediate_size: keys.uniform("feed_forward_length"),
    num_hidden_layers: keys.get("block_count"),
    num_attention_heads: keys.uniform("attention.head_count"),
    num_key_value_heads: keys.uniform("attention.head_count_kv"),
    head_dim,
    max_position_embeddings: keys.get("context_length"),
    rms_norm_eps: keys.required("attention.layer_norm_rms_epsilon"),
    tie_word_embeddings: !tensors.has("output.weight"),
    attention_bias: hasBias("attn_q"),
    mlp_bias: hasBias("ffn_gate"),
    num_local_experts: keys.get("expert_count"),
  };
}

function headDim(keys: ArchitectureKeys): number {
  const heads = keys.uniform("attention.head_count");
  const even = keys.number("embedding_length", NaN) / (typeof heads === "number" ? heads : NaN);
  return keys.number("attention.key_length", even);
}

/** As in Hugging Face configs of the old style, but for `factors`. */
function ropeFields(
  { tensors }: GgufHeader,
  keys: ArchitectureKeys,
  factors: readonly number[] | undefined,
): Fields {
  const dim = headDim(keys);
  const rotated = keys.number("rope.dimension_count", dim);
  const scaling = ropeScaling(keys);
  const isLong = tensors.has(longRopeFactors);
  if (factors !== undefined && (scaling !== undefined || isLong)) {
    throw keys.unsupported(`${ropeFactors} beside another scaling of the rotary embedding`);
  }
  return {
    rope_theta: keys.get("rope.freq_base"),
    // The half keeps the product with the head's dimensions from falling below the whole number.
    partial_rotary_factor: rotated === dim ? undefined : (rotated + 0.5) / dim,
    rope_scaling:
      factors !== undefined
        ? { rope_type: "factors", factors }
        : isLong
          ? { rope_type: "longrope" }
          : scaling,
  };
}

function ropeScaling(keys: ArchitectureKeys): Fields | undefined {
  const linear = keys.get("rope.scale_linear");
  const type = keys.get("rope.scaling.type") ?? (linear === undefined ? "none" : "linear");
  if (type === "none") return undefined;
  const factor = keys.get("rope.scaling.factor") ?? linear;
  if (type !== "yarn") return withoutUndefined({ rope_type: type, factor });
  const attention = keys.get("rope.scaling.attn_factor");
  return withoutUndefined({
    rope_type: type,
    factor,
    original_max_position_embeddings: keys.get("rope.scaling.original_context_length"),
    beta_fast: keys.get("rope.scaling.yarn_beta_fast"),
    beta_slow: keys.get("rope.scaling.yarn_beta_slow"),
    // There it multiplies what the factor gives by itself; in Hugging Face it replaces it.
    attention_factor:
      typeof attention === "number"
        ? attention * yarnScale(keys.number("rope.scaling.factor", 1), 1)
        : attention,
  });
}

function familyFields(header: GgufHeader, keys: ArchitectureKeys): Fields {
  switch (keys.name) {
    case "llama":
      return llamaFields(keys);
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
  const mistral = { architectures: ["MistralForCausalLM"], sliding_window: window };
  return { rope_interleave: true, ...(window ? mistral : {}) };
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
  if (keys.get("block_count") !== 62) return headDim(keys);
  return keys.number("embedding_length", NaN) / keys.number("attention.head_count", NaN);
}
