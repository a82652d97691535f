import { checkInteger } from "../arguments.js";
import type { LogitsProcessor, SamplingOptions } from "../engine/types.js";
import { argumentError } from "../errors.js";
import {
  checkControls,
  isNeutral,
  type ControlOptions,
  type ControlTexts,
  type LogitsControls,
} from "./logits-controls.js";
import { withTexts } from "./control-texts.js";
import { sortedIds } from "../engine/token-ids.js";
import type { EncodeOptions } from "../loading/tokenizer.js";
import {
  checkLogprobs,
  resolveSamplingParams,
  type SamplingDefaults,
  type SamplingParams,
} from "./sampling-params.js";

/** A request's sampling fields: in range, and no longer the caller's objects. */
export interface CheckedSampling {
  /** Complete, but for what {@link controlTexts} add: see {@link resolveTexts}. */
  readonly sampling: SamplingParams;
  readonly controls: LogitsControls;
  readonly controlTexts: ControlTexts;
}

export interface SamplingLimits {
  readonly vocabSize: number;
  readonly maxTokens: number;
  readonly eosTokenIds: ReadonlySet<number>;
  readonly stopTokenIds: ReadonlySet<number>;
  readonly sampling: SamplingDefaults;
}

/**
 * Checks how a request wants its tokens drawn. Every property is read once.
 *
 * @throws ERR_ARGUMENT, ERR_TOKEN_ID
 */
export function checkSampling(request: SamplingOptions, limits: SamplingLimits): CheckedSampling {
  const { temperature, topK, topP, minP, seed, repetitionPenalty } = request;
  const { logprobs, minTokens, logitsProcessor } = request;
  const controlOptions = readControls(request);
  const numLogprobs = checkLogprobs("logprobs", logprobs);
  const processor = checkProcessor(logitsProcessor);
  const drawing = { temperature, topK, topP, minP, seed, repetitionPenalty };
  const sampling = resolveSamplingParams(drawing, limits.sampling);
  const penalty =
    repetitionPenalty === undefined ? limits.sampling.repetitionPenalty : repetitionPenalty;
  const options = { ...controlOptions, repetitionPenalty: penalty };
  const { controls, texts } = checkControls(options, limits.vocabSize);
  const withMinimum = { ...controls, ...checkMinTokens(minTokens, limits) };
  return {
    sampling: {
      ...sampling,
      ...(numLogprobs !== undefined && { numLogprobs }),
      ...(processor !== undefined && { logitsProcessor: processor }),
      ...(!isNeutral(withMinimum) && { controls: withMinimum }),
    },
    controls: withMinimum,
    controlTexts: texts,
  };
}

/** Whether texts have to become tokens before the request can be queued. */
export function hasControlTexts({ controls, controlTexts }: CheckedSampling): boolean {
  const { badWords, breakers } = controlTexts;
  return badWords.length > 0 || (controls.dry.multiplier > 0 && breakers.length > 0);
}

/** The sampling parameters with the tokens of all texts. */
export async function resolveTexts(
  { sampling, controls, controlTexts }: CheckedSampling,
  encode: (text: string, options: EncodeOptions) => Promise<Int32Array>,
  vocabSize: number,
): Promise<SamplingParams> {
  const resolved = await withTexts(controls, controlTexts, encode, vocabSize);
  return isNeutral(resolved) ? sampling : { ...sampling, controls: resolved };
}

function readControls(request: SamplingOptions): {
  readonly [K in keyof ControlOptions]?: ControlOptions[K] | undefined;
} {
  const { typicalP, presencePenalty, frequencyPenalty, logitBias } = request;
  const { allowedTokenIds, badWords, dry, xtc } = request;
  const penalties = { presencePenalty, frequencyPenalty };
  return { typicalP, ...penalties, logitBias, allowedTokenIds, badWords, dry, xtc };
}

/** End-of-sequence tokens count even where the request ignores them, as in vLLM. */
function checkMinTokens(
  value: unknown,
  { vocabSize, maxTokens, eosTokenIds, stopTokenIds }: SamplingLimits,
): Pick<LogitsControls, "minTokens" | "minTokenIds"> {
  if (value === undefined) return { minTokens: 0, minTokenIds: new Int32Array(0) };
  const max = Math.min(maxTokens, Number.MAX_SAFE_INTEGER);
  const minTokens = checkInteger("minTokens", value, { min: 0, max });
  return { minTokens, minTokenIds: sortedIds([...eosTokenIds, ...stopTokenIds], vocabSize) };
}

function checkProcessor(value: unknown): LogitsProcessor | undefined {
  if (value === undefined || typeof value === "function")
    return value as LogitsProcessor | undefined;
  throw argumentError("logitsProcessor", "a function", value);
}
