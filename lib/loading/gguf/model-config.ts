import { ConfigReader } from "../config.js";
import { yarnScale } from "../rope.js";
import { withoutUndefined } from "../without-undefined.js";
import { ArchitectureKeys } from "./architecture-keys.js";
import { ggufArchitecture, ropeFactors } from "./architectures.js";
import { familyFields } from "./family-fields.js";
import type { Fields } from "./family-fields.js";
import type { GgufHeader } from "./header.js";

/** Divisors of the rotary frequencies: for all contexts, or for short and long ones. */
export interface RopeFactors {
  readonly all?: readonly number[] | undefined;
  readonly short?: readonly number[] | undefined;
  readonly long?: readonly number[] | undefined;
}

/**
 * The metadata as the fields of a Hugging Face config.json, docs/gguf.md has the table. What it
 * lacks, or has of a wrong type, the reader of the field refuses.
 *
 * @param factors divisors of the rotary frequencies that the file has
 * @throws ERR_MODEL_UNSUPPORTED for what the config of these families cannot say
 */
export function ggufConfig(header: GgufHeader, factors: RopeFactors): ConfigReader {
  const { architecture } = ggufArchitecture(header);
  const keys = new ArchitectureKeys(header);
  const shared = sharedFields(header, keys, architecture);
  const rope = ropeFields(keys, factors);
  const fields = { ...shared, ...rope, ...familyFields(header, keys) };
  return new ConfigReader(withoutUndefined(fields), header.file.path);
}

function sharedFields(header: GgufHeader, keys: ArchitectureKeys, architecture: string): Fields {
  const { tensors } = header;
  const head_dim = keys.headDim();
  if (!keys.isLatent && keys.number("attention.value_length", head_dim) !== head_dim) {
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

/** As in Hugging Face configs of the old style, but for `factors`. */
function ropeFields(keys: ArchitectureKeys, factors: RopeFactors): Fields {
  const dim = keys.headDim();
  const rotated = keys.number("rope.dimension_count", dim);
  const scaling = ropeScaling(keys);
  const isLong = factors.short !== undefined || factors.long !== undefined;
  if (factors.all !== undefined && (scaling !== undefined || isLong)) {
    throw keys.unsupported(`${ropeFactors} beside another scaling of the rotary embedding`);
  }
  return {
    rope_theta: keys.get("rope.freq_base"),
    // The half keeps the product with the head's dimensions from falling below the whole number.
    partial_rotary_factor: rotated === dim ? undefined : (rotated + 0.5) / dim,
    rope_scaling:
      factors.all !== undefined
        ? { rope_type: "factors", factors: factors.all }
        : isLong
          ? longRopeFields(keys, factors)
          : scaling,
  };
}

function longRopeFields(keys: ArchitectureKeys, { short, long }: RopeFactors): Fields {
  return withoutUndefined({
    rope_type: "longrope",
    short_factor: short,
    long_factor: long,
    original_max_position_embeddings: keys.get("rope.scaling.original_context_length"),
    attention_factor: keys.get("rope.scaling.attn_factor"),
  });
}

function ropeScaling(keys: ArchitectureKeys): Fields | undefined {
  const linear = keys.get("rope.scale_linear");
  const type = keys.get("rope.scaling.type") ?? (linear === undefined ? "none" : "linear");
  if (type === "none") return undefined;
  const factor = keys.get("rope.scaling.factor") ?? linear;
  if (type !== "yarn") return withoutUndefined({ rope_type: type, factor });
  const attention = keys.get("rope.scaling.attn_factor");
  const mscale = mscaleFields(keys);
  const isScaled = mscale !== undefined;
  return withoutUndefined({
    rope_type: type,
    factor,
    original_max_position_embeddings: keys.get("rope.scaling.original_context_length"),
    beta_fast: keys.get("rope.scaling.yarn_beta_fast"),
    beta_slow: keys.get("rope.scaling.yarn_beta_slow"),
    ...mscale,
    truncate: keys.name === "gpt-oss" ? false : undefined,
    // There it multiplies what the factor gives by itself; in Hugging Face it replaces it.
    attention_factor:
      typeof attention === "number"
        ? attention * (isScaled ? 1 : yarnScale(keys.number("rope.scaling.factor", 1), 1))
        : attention,
  });
}

/** There a tenth of `mscale_all_dim`, and `mscale` is the same. */
function mscaleFields(keys: ArchitectureKeys): Fields | undefined {
  const logMultiplier = keys.number("rope.scaling.yarn_log_multiplier", 0);
  if (!keys.isLatent || logMultiplier === 0) return undefined;
  return { mscale: 10 * logMultiplier, mscale_all_dim: 10 * logMultiplier };
}
