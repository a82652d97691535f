import { describe, PagodaError } from "../errors.js";
import { ConfigReader } from "./config.js";

/** Rotary position embedding of one layer type, whatever style the config is written in. */
export type RopeParameters =
  DefaultRope | LinearRope | Llama3Rope | YarnRope | FactorsRope | LongRope;

interface RopeBase {
  /** Base of the geometric series of frequencies. */
  readonly theta: number;
  /** How many leading dimensions of a head are rotated; even. */
  readonly rotaryDim: number;
}

export interface DefaultRope extends RopeBase {
  readonly type: "default";
}

/** Position interpolation: every frequency is divided by `factor`. */
export interface LinearRope extends RopeBase {
  readonly type: "linear";
  readonly factor: number;
}

/** Llama 3.1: long wavelengths are interpolated, short ones kept, those between blended. */
export interface Llama3Rope extends RopeBase {
  readonly type: "llama3";
  readonly factor: number;
  readonly lowFreqFactor: number;
  readonly highFreqFactor: number;
  readonly originalMaxPositionEmbeddings: number;
}

/** YaRN (arXiv 2309.00071). */
export interface YarnRope extends RopeBase {
  readonly type: "yarn";
  readonly factor: number;
  readonly betaFast: number;
  readonly betaSlow: number;
  /** Whether the bounds of the ramp are rounded outwards to whole dimensions. */
  readonly truncate: boolean;
  /** Multiplies cos and sin. */
  readonly attentionFactor: number;
  /** DeepSeek models also scale the softmax by a function of this. */
  readonly mscaleAllDim?: number;
  readonly originalMaxPositionEmbeddings: number;
}

/** Each frequency is divided by a number of its own: how GGUF files say `llama3`. */
export interface FactorsRope extends RopeBase {
  readonly type: "factors";
  /** [rotaryDim / 2] */
  readonly factors: readonly number[];
}

/** LongRoPE (arXiv 2402.13753): each frequency is divided by one number within the pretraining context, by another beyond. */
export interface LongRope extends RopeBase {
  readonly type: "longrope";
  /** [rotaryDim / 2] */
  readonly shortFactors: readonly number[];
  /** [rotaryDim / 2] */
  readonly longFactors: readonly number[];
  /** Multiplies cos and sin. */
  readonly attentionFactor: number;
  readonly originalMaxPositionEmbeddings: number;
}

export interface RopeOptions {
  /** Dimensions of a head that `partial_rotary_factor` is a part of. */
  readonly headDim: number;
  /** For models whose layer types differ, e.g. `sliding_attention`. @default "full_attention" */
  readonly layerType?: string;
  /** For configs without `rope_theta`. @default 10000 */
  readonly defaultTheta?: number;
}

const supportedTypes = ["default", "linear", "llama3", "yarn", "longrope", "factors"] as const;

/**
 * Reads the rotary embedding of one layer type from either style of config: the new
 * `rope_parameters` (flat, or one object a layer type), or the old `rope_theta`, `rope_scaling`,
 * `partial_rotary_factor` and, in Gemma 3, `rope_local_base_freq`.
 *
 * @throws ERR_CONFIG_INVALID naming the field; ERR_MODEL_UNSUPPORTED for other rope types.
 */
export function ropeParameters(config: ConfigReader, options: RopeOptions): RopeParameters {
  const { headDim, layerType = "full_attention", defaultTheta = 10_000 } = options;
  const scaling = ropeObject(config, layerType);
  const positive = { exclusiveMin: 0 };
  const isLocal = layerType === "sliding_attention" && config.has("rope_local_base_freq");
  const thetaField = isLocal ? "rope_local_base_freq" : "rope_theta";
  const theta = scaling.has("rope_theta")
    ? scaling.number("rope_theta", positive)
    : config.number(thetaField, { ...positive, default: defaultTheta });
  const rotaryDim = readRotaryDim(scaling, config, headDim);
  const base = { theta, rotaryDim };

  const type = scaling.string("rope_type", scaling.string("type", "default"));
  switch (type) {
    case "default":
      return { type, ...base };
    case "linear":
      return { type, ...base, factor: scaling.number("factor", positive) };
    case "llama3":
      return readLlama3(scaling, config, base);
    case "yarn":
      return readYarn(scaling, config, base);
    case "factors":
      return { type, ...base, factors: readFactors(scaling, "factors", rotaryDim / 2) };
    case "longrope":
    case "su": // its first name
      return readLongRope(scaling, config, base);
    default:
      throw new PagodaError(
        "ERR_MODEL_UNSUPPORTED",
        `${config.file}: the rope type ${describe(type)} is not supported`,
        { details: { ropeType: type, supported: supportedTypes } },
      );
  }
}

/** The object that holds the parameters of this layer type; empty when the config has none. */
function ropeObject(config: ConfigReader, layerType: string): ConfigReader {
  const none = new ConfigReader({}, config.file);
  const parameters = config.object("rope_parameters");
  const isNested = ["full_attention", "sliding_attention", layerType].some((key) =>
    parameters?.has(key),
  );
  if (parameters !== undefined && isNested) {
    const nested = parameters.object(layerType);
    if (nested !== undefined) return nested;
    throw parameters.error(layerType, "an object", parameters.raw(layerType));
  }
  // Gemma 3 of the old style scales its global layers only.
  const isUnscaled = layerType === "sliding_attention" && config.has("rope_local_base_freq");
  return (isUnscaled ? undefined : config.object("rope_scaling")) ?? parameters ?? none;
}

function readRotaryDim(scaling: ConfigReader, config: ConfigReader, headDim: number): number {
  const field = "partial_rotary_factor";
  const source = scaling.has(field) ? scaling : config;
  const factor = source.number(field, { exclusiveMin: 0, max: 1, default: 1 });
  const rotaryDim = Math.trunc(headDim * factor);
  if (rotaryDim > 0 && rotaryDim % 2 === 0) return rotaryDim;
  throw source.error(field, `an even number of the ${headDim} dimensions of a head`, factor);
}

/** The pretraining context; a value at the top of the config has priority, as in Phi-3. */
function originalContext(scaling: ConfigReader, config: ConfigReader): number {
  const field = "original_max_position_embeddings";
  const limits = { min: 1 };
  return (
    config.optionalInteger(field, limits) ??
    scaling.optionalInteger(field, limits) ??
    config.integer("max_position_embeddings", limits)
  );
}

function readLlama3(scaling: ConfigReader, config: ConfigReader, base: RopeBase): Llama3Rope {
  const lowFreqFactor = scaling.number("low_freq_factor", { exclusiveMin: 0 });
  return {
    type: "llama3",
    ...base,
    factor: scaling.number("factor", { exclusiveMin: 0 }),
    lowFreqFactor,
    highFreqFactor: scaling.number("high_freq_factor", { exclusiveMin: lowFreqFactor }),
    originalMaxPositionEmbeddings: originalContext(scaling, config),
  };
}

function readYarn(scaling: ConfigReader, config: ConfigReader, base: RopeBase): YarnRope {
  if (base.theta <= 1) throw config.error("rope_theta", "a number above 1 for yarn", base.theta);
  const original = originalContext(scaling, config);
  const positive = { exclusiveMin: 0 };
  const factor =
    scaling.optionalNumber("factor", positive) ??
    config.integer("max_position_embeddings", { min: 1 }) / original;
  const mscale = scaling.optionalNumber("mscale", { min: 0 });
  const mscaleAllDim = scaling.optionalNumber("mscale_all_dim", { min: 0 });
  const inferred =
    mscale && mscaleAllDim
      ? yarnScale(factor, mscale) / yarnScale(factor, mscaleAllDim)
      : yarnScale(factor, 1);
  return {
    type: "yarn",
    ...base,
    factor,
    betaFast: scaling.optionalNumber("beta_fast", positive) ?? 32,
    betaSlow: scaling.optionalNumber("beta_slow", positive) ?? 1,
    truncate: scaling.boolean("truncate", true),
    attentionFactor: scaling.optionalNumber("attention_factor", { min: 0 }) ?? inferred,
    ...(mscaleAllDim === undefined ? {} : { mscaleAllDim }),
    originalMaxPositionEmbeddings: original,
  };
}

function readLongRope(scaling: ConfigReader, config: ConfigReader, base: RopeBase): LongRope {
  const original = originalContext(scaling, config);
  const factor =
    scaling.optionalNumber("factor", { exclusiveMin: 0 }) ??
    config.integer("max_position_embeddings", { min: 1 }) / original;
  const inferred = factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(original));
  return {
    type: "longrope",
    ...base,
    shortFactors: readFactors(scaling, "short_factor", base.rotaryDim / 2),
    longFactors: readFactors(scaling, "long_factor", base.rotaryDim / 2),
    attentionFactor: scaling.optionalNumber("attention_factor", { min: 0 }) ?? inferred,
    originalMaxPositionEmbeddings: original,
  };
}

function readFactors(scaling: ConfigReader, field: string, count: number): number[] {
  const factors = scaling.numbers(field);
  if (factors?.length === count && factors.every((factor) => factor > 0)) return factors;
  throw scaling.error(field, `${count} numbers above 0`, factors);
}

/** YaRN's temperature for a context that is `factor` times the pretraining one. */
export function yarnScale(factor: number, mscale: number): number {
  return factor <= 1 ? 1 : 0.1 * mscale * Math.log(factor) + 1;
}

/**
 * The angle that each pair of dimensions turns by a position; cos and sin are to be multiplied by
 * `attentionScaling`. Every intermediate is rounded to float32 as in Hugging Face transformers,
 * since at long contexts the last bit of a frequency shows in the logits.
 *
 * @param maxModelLen Tokens of the longest sequence. It chooses the factors of LongRoPE, once and for all sequences, as in
 *   vLLM: keys in the cache must not depend on how long their sequence will become.
 * @returns `values` of shape [rotaryDim / 2], in radians a position.
 */
export function inverseFrequencies(
  parameters: RopeParameters,
  maxModelLen: number,
): {
  values: Float32Array;
  attentionScaling: number;
} {
  const periods = positionsPerRadian(parameters);
  switch (parameters.type) {
    case "default":
      return { values: periods.map((period) => 1 / period), attentionScaling: 1 };
    case "linear": {
      const factor = f32(parameters.factor);
      return { values: periods.map((period) => f32(1 / period) / factor), attentionScaling: 1 };
    }
    case "llama3":
      return {
        values: periods.map((period) => llama3(f32(1 / period), parameters)),
        attentionScaling: 1,
      };
    case "factors":
      return {
        values: periods.map((period, i) => f32(1 / period) / f32(parameters.factors[i]!)),
        attentionScaling: 1,
      };
    case "longrope": {
      const isLong = maxModelLen > parameters.originalMaxPositionEmbeddings;
      const factors = isLong ? parameters.longFactors : parameters.shortFactors;
      return {
        values: periods.map((period, i) => 1 / f32(f32(factors[i]!) * period)),
        attentionScaling: parameters.attentionFactor,
      };
    }
    case "yarn":
      return {
        values: yarn(periods, parameters),
        attentionScaling: parameters.attentionFactor,
      };
  }
}

const f32 = Math.fround;

/** theta^(2i / rotaryDim), shape [rotaryDim / 2]; 2 pi times this is the wavelength. */
function positionsPerRadian({ theta, rotaryDim }: RopeBase): Float32Array {
  const base = f32(theta);
  return Float32Array.from({ length: rotaryDim / 2 }, (_, i) => base ** f32((2 * i) / rotaryDim));
}

function llama3(frequency: number, parameters: Llama3Rope): number {
  const { lowFreqFactor: low, highFreqFactor: high } = parameters;
  const context = parameters.originalMaxPositionEmbeddings;
  const factor = f32(parameters.factor);
  const wavelength = f32(f32(2 * Math.PI) / frequency);
  if (wavelength > context / low) return frequency / factor;
  if (wavelength < context / high) return frequency;
  const smooth = f32(f32(f32(context / wavelength) - f32(low)) / f32(high - low));
  const interpolated = f32(f32(f32(1 - smooth) * frequency) / factor);
  return interpolated + f32(smooth * frequency);
}

function yarn(periods: Float32Array, parameters: YarnRope): Float32Array {
  const [low, high] = yarnRamp(parameters);
  const factor = f32(parameters.factor);
  return periods.map((period, i) => {
    const ramp = Math.min(Math.max(f32(f32(i - f32(low)) / f32(high - low)), 0), 1);
    const kept = f32(1 - ramp);
    const interpolated = f32(f32(1 / f32(factor * period)) * f32(1 - kept));
    return interpolated + f32(f32(1 / period) * kept);
  });
}

/** The pairs between which YaRN goes over from keeping frequencies to interpolating them. */
function yarnRamp(parameters: YarnRope): [low: number, high: number] {
  const { betaFast, betaSlow, truncate, rotaryDim } = parameters;
  const low = correctionDim(betaFast, parameters);
  const high = correctionDim(betaSlow, parameters);
  const from = Math.max(truncate ? Math.floor(low) : low, 0);
  const to = Math.min(truncate ? Math.ceil(high) : high, rotaryDim - 1);
  return [from, from === to ? to + 0.001 : to];
}

/** The pair that turns `rotations` times within the pretraining context. */
function correctionDim(rotations: number, parameters: YarnRope): number {
  const { rotaryDim, theta, originalMaxPositionEmbeddings: context } = parameters;
  return (rotaryDim * Math.log(context / (rotations * 2 * Math.PI))) / (2 * Math.log(theta));
}
