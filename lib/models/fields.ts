import { describe, PagodaError } from "../errors.js";
import type { Activation } from "../graph/ops.js";
import type { ConfigReader } from "../loading/config.js";

/** Fields of config.json that all families here share, with their Hugging Face names, checked. */
export interface DecoderConfig {
  readonly vocab_size: number;
  readonly hidden_size: number;
  readonly intermediate_size: number;
  readonly num_hidden_layers: number;
  readonly num_attention_heads: number;
  readonly num_key_value_heads: number;
  readonly head_dim: number;
  readonly max_position_embeddings: number;
  readonly rms_norm_eps: number;
  readonly tie_word_embeddings: boolean;
  readonly activation: Activation;
}

/** What a family takes for fields that its config.json leaves out. */
export interface DecoderDefaults {
  /** @default hidden_size / num_attention_heads */
  readonly head_dim?: number;
  /** @default false */
  readonly tie_word_embeddings?: boolean;
  /** @default 1e-6 */
  readonly rms_norm_eps?: number;
  /** Field that names the activation, and its default. @default `hidden_act`, "silu" */
  readonly activation?: readonly [field: string, name: string];
}

/** Reads and checks the shared fields: every dimension is positive, bounded, and divides what it has to divide. */
export function decoderConfig(config: ConfigReader, defaults: DecoderDefaults = {}): DecoderConfig {
  const hidden_size = config.integer("hidden_size", { min: 1, max: 2 ** 20 });
  const num_attention_heads = config.integer("num_attention_heads", { min: 1, max: 4096 });
  return {
    vocab_size: config.integer("vocab_size", { min: 1, max: 2 ** 24 }),
    hidden_size,
    intermediate_size: config.integer("intermediate_size", { min: 1, max: 2 ** 22 }),
    num_hidden_layers: config.integer("num_hidden_layers", { min: 1, max: 1024 }),
    num_attention_heads,
    num_key_value_heads: kvHeads(config, num_attention_heads),
    head_dim: headDim(config, hidden_size, num_attention_heads, defaults.head_dim),
    max_position_embeddings: config.integer("max_position_embeddings", { min: 1, max: 2 ** 27 }),
    rms_norm_eps: config.number("rms_norm_eps", {
      exclusiveMin: 0,
      max: 1,
      default: defaults.rms_norm_eps ?? 1e-6,
    }),
    tie_word_embeddings: config.boolean(
      "tie_word_embeddings",
      defaults.tie_word_embeddings ?? false,
    ),
    activation: activation(config, ...(defaults.activation ?? (["hidden_act", "silu"] as const))),
  };
}

function kvHeads(config: ConfigReader, heads: number): number {
  const kvHeads = config.integer("num_key_value_heads", { min: 1, max: heads, default: heads });
  if (heads % kvHeads === 0) return kvHeads;
  throw config.error("num_key_value_heads", `a divisor of num_attention_heads (${heads})`, kvHeads);
}

function headDim(
  config: ConfigReader,
  hidden: number,
  heads: number,
  fallback: number | undefined,
): number {
  const explicit = config.optionalInteger("head_dim", { min: 1, max: 512 }) ?? fallback;
  if (explicit !== undefined) return explicit;
  if (hidden % heads === 0 && hidden / heads <= 512) return hidden / heads;
  throw config.error(
    "num_attention_heads",
    `heads of at most 512 that divide hidden_size (${hidden})`,
    heads,
  );
}

const activationNames: Readonly<Record<string, Activation>> = {
  silu: "silu",
  swish: "silu",
  gelu: "gelu",
  gelu_new: "geluTanh",
  gelu_pytorch_tanh: "geluTanh",
};

function activation(config: ConfigReader, field: string, fallback: string): Activation {
  const name = config.string(field, fallback);
  if (Object.hasOwn(activationNames, name)) return activationNames[name] as Activation;
  throw unsupported(
    config,
    `the activation ${describe(name)} (\`${field}\`)`,
    Object.keys(activationNames),
  );
}

/** `sliding_window` in tokens: 0 where it is null, `absent` where it is not there at all. */
export function slidingWindow(config: ConfigReader, absent: number): number {
  if (!config.has("sliding_window")) return absent;
  return config.optionalInteger("sliding_window", { min: 1, max: 2 ** 27 }) ?? 0;
}

const layerTypes = ["full_attention", "sliding_attention"] as const;

export type LayerType = (typeof layerTypes)[number];

/** `layer_types`, or `fallback` of each layer where the field is null or absent. */
export function readLayerTypes(
  config: ConfigReader,
  numLayers: number,
  fallback: (layer: number) => LayerType,
): LayerType[] {
  if (config.raw("layer_types") == null)
    return Array.from({ length: numLayers }, (_, i) => fallback(i));
  const types = config.strings("layer_types");
  if (types.length !== numLayers) throw config.error("layer_types", `${numLayers} names`, types);
  return types.map((type) => {
    const known = layerTypes.find((name) => name === type);
    if (known !== undefined) return known;
    throw unsupported(config, `the layer type ${describe(type)}`, layerTypes);
  });
}

/** The window of each layer, 0 for full attention. `sliding_window` (by default 4096) must not be null if a layer needs it. */
export function layerWindows(config: ConfigReader, types: readonly LayerType[]): number[] {
  const window = slidingWindow(config, 4096);
  if (window === 0 && types.includes("sliding_attention")) {
    throw config.error("sliding_window", "an integer", config.raw("sliding_window"));
  }
  return types.map((type) => (type === "sliding_attention" ? window : 0));
}

/** ERR_MODEL_UNSUPPORTED for `feature` of the model. */
export function unsupported(
  config: ConfigReader,
  feature: string,
  supported: readonly string[] = [],
): PagodaError {
  const known = supported.length === 0 ? "" : `; supported: ${supported.join(", ")}`;
  return new PagodaError(
    "ERR_MODEL_UNSUPPORTED",
    `${config.file}: ${feature} is not supported${known}`,
    {
      details: { file: config.file, feature, supported },
    },
  );
}
