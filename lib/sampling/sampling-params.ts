import { getRandomValues } from "node:crypto";
import { checkInteger, checkNumber } from "../arguments.js";
import type { LogitsProcessor, SamplingOptions } from "../engine/types.js";
import { PagodaError } from "../errors.js";
import type { GenerationDefaults } from "../loading/generation-config.js";
import { checkRepetitionPenalty, type LogitsControls } from "./logits-controls.js";

/** How the tokens of one sequence are drawn; all values are in range. */
export interface SamplingParams {
  /** 0 is greedy; topK, topP and minP then keep everything. */
  readonly temperature: number;
  /** 0 keeps all. */
  readonly topK: number;
  /** In (0, 1]. */
  readonly topP: number;
  /** In [0, 1]. */
  readonly minP: number;
  /** Two uint32 words, low word first. */
  readonly seed: readonly [number, number];
  /** Absent where nothing changes the logits and there are no other filters. */
  readonly controls?: LogitsControls;
  /** Most probable tokens wanted beside the drawn one; absent: no log-probabilities at all. */
  readonly numLogprobs?: number;
  readonly logitsProcessor?: LogitsProcessor;
}

/** The fields of a request for which a model's generation_config.json has defaults. */
export type DefaultedOptions = Pick<
  SamplingOptions,
  "temperature" | "topK" | "topP" | "minP" | "repetitionPenalty"
>;

/** Defaults of the fields that a request leaves out. */
export type SamplingDefaults = Required<DefaultedOptions>;

/** vLLM's defaults. */
export const neutralSampling: SamplingDefaults = {
  temperature: 1,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
};

/** Draws the most probable token. */
export const greedySampling: SamplingParams = {
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  seed: [0, 0],
};

/** Most probable tokens at each place that a request may ask for. */
export const maxLogprobs = 20;

/** Lower temperatures are greedy, as in vLLM. */
const greedyBelow = 1e-5;

/** Lower temperatures that are not greedy are raised to this, as in vLLM: logits divided by them could overflow. */
const minTemperature = 0.01;

/** Smallest normal float32: a smaller topP would become 0 in the step's arrays. Both keep one token. */
const minTopP = 2 ** -126;

/**
 * Applies defaults and checks ranges. Unset (undefined) fields take `defaults`, and the seed is then random. The repetition
 * penalty is checked here, too, but is one of {@link LogitsControls}.
 *
 * @throws ERR_ARGUMENT naming the parameter, for anything else that is not a number in range: null, strings, NaN.
 */
export function resolveSamplingParams(
  options: Unset<DefaultedOptions & Pick<SamplingOptions, "seed">>,
  defaults: SamplingDefaults = neutralSampling,
): SamplingParams {
  const { temperature, topK, topP, minP } = checkSampling(options, defaults);
  const seed = resolveSeed(options.seed);
  if (temperature < greedyBelow) return { ...greedySampling, seed };
  return {
    temperature: Math.max(temperature, minTemperature),
    topK,
    topP: Math.max(topP, minTopP),
    minP,
    seed,
  };
}

/**
 * What generation_config.json sets, over vLLM's defaults. As in vLLM, `do_sample` does not matter: a request asks for
 * greedy decoding by temperature 0.
 *
 * @throws ERR_CONFIG_INVALID where the file's value is out of range.
 */
export function samplingDefaults(generation: GenerationDefaults): SamplingDefaults {
  const { temperature, topK, topP, minP, repetitionPenalty } = generation;
  try {
    return checkSampling({ temperature, topK, topP, minP, repetitionPenalty }, neutralSampling);
  } catch (error) {
    if (!PagodaError.is(error)) throw error;
    const message = `generation_config.json: ${error.message}`;
    const details = { file: "generation_config.json", field: error.details["parameter"] };
    throw new PagodaError("ERR_CONFIG_INVALID", message, { details, cause: error });
  }
}

export type Unset<T> = { readonly [K in keyof T]?: T[K] | undefined };

function checkSampling(
  options: Unset<DefaultedOptions>,
  defaults: SamplingDefaults,
): SamplingDefaults {
  const { temperature, topK, topP, minP, repetitionPenalty } = withDefaults(options, defaults);
  return {
    temperature: checkNumber("temperature", temperature, { min: 0, max: 100 }),
    topK: checkInteger("topK", topK, { min: 0, max: 2 ** 31 - 1 }),
    topP: checkNumber("topP", topP, { min: 0, max: 1, exclusiveMin: true }),
    minP: checkNumber("minP", minP, { min: 0, max: 1 }),
    repetitionPenalty: checkRepetitionPenalty(repetitionPenalty),
  };
}

/** @throws ERR_ARGUMENT */
export function checkLogprobs(parameter: string, value: unknown): number | undefined {
  if (value === undefined) return undefined;
  return checkInteger(parameter, value, { min: 0, max: maxLogprobs });
}

/** Only undefined is replaced: null is an error, not a wish for the default. */
function withDefaults(
  options: Unset<DefaultedOptions>,
  defaults: SamplingDefaults,
): SamplingDefaults {
  const { temperature, topK, topP, minP, repetitionPenalty } = options;
  return {
    temperature: temperature === undefined ? defaults.temperature : temperature,
    topK: topK === undefined ? defaults.topK : topK,
    topP: topP === undefined ? defaults.topP : topP,
    minP: minP === undefined ? defaults.minP : minP,
    repetitionPenalty:
      repetitionPenalty === undefined ? defaults.repetitionPenalty : repetitionPenalty,
  };
}

function resolveSeed(seed: number | undefined): readonly [number, number] {
  if (seed === undefined) {
    const [low, high] = getRandomValues(new Uint32Array(2));
    return [low!, high!];
  }
  const checked = checkInteger("seed", seed, { min: 0, max: Number.MAX_SAFE_INTEGER });
  return [checked >>> 0, Math.floor(checked / 2 ** 32)];
}
