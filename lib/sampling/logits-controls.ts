import { checkInteger, checkNumber, checkObject } from "../arguments.js";
import { hasLoneSurrogate } from "../engine/token-ids.js";
import type { DryOptions, SamplingOptions, XtcOptions } from "../engine/types.js";
import { argumentError, describe } from "../errors.js";
import {
  copyArray,
  copyTokenIdArray,
  isTokenId,
  sortedIds,
  tokenIdError,
} from "../engine/token-ids.js";

/** What changes one sequence's logits before a token is drawn, and the filters beside topP; all values are in range. */
export interface LogitsControls {
  /** Increasing; empty: all are allowed. */
  readonly allowedTokenIds: Int32Array;
  /** Each at least one token; the last one is banned where the output ends with the others. */
  readonly badWords: readonly Int32Array[];
  /** While the output has fewer tokens, `minTokenIds` are banned. */
  readonly minTokens: number;
  /** End-of-sequence and stop tokens. */
  readonly minTokenIds: Int32Array;
  readonly logitBias: LogitBias;
  /** Above 0; 1 is neutral. */
  readonly repetitionPenalty: number;
  readonly frequencyPenalty: number;
  readonly presencePenalty: number;
  /** Multiplier 0 is neutral. */
  readonly dry: DryParams;
  /** In (0, 1]. */
  readonly typicalP: number;
  /** Probability 0 is neutral. */
  readonly xtc: Required<XtcOptions>;
}

export interface LogitBias {
  /** Increasing. */
  readonly ids: Int32Array;
  readonly values: Float32Array;
}

export interface DryParams extends Required<Omit<DryOptions, "sequenceBreakers">> {
  /** Increasing. */
  readonly breakers: Int32Array;
}

const noIds = new Int32Array(0);

export const neutralDry: DryParams = {
  multiplier: 0,
  base: 1.75,
  allowedLength: 2,
  range: 2 ** 31 - 1,
  breakers: noIds,
};

export const neutralControls: LogitsControls = {
  allowedTokenIds: noIds,
  badWords: [],
  minTokens: 0,
  minTokenIds: noIds,
  logitBias: { ids: noIds, values: new Float32Array(0) },
  repetitionPenalty: 1,
  frequencyPenalty: 0,
  presencePenalty: 0,
  dry: neutralDry,
  typicalP: 1,
  xtc: { probability: 0, threshold: 0.1 },
};

/** The texts of a request that have to become tokens. */
export interface ControlTexts {
  readonly badWords: readonly string[];
  readonly breakers: readonly string[];
  /** Whether the request itself names texts, so that there must be a tokenizer. */
  readonly needTokenizer: boolean;
}

/** llama.cpp's. */
const defaultBreakers: readonly string[] = ["\n", ":", '"', "*"];

/** vLLM's limits. */
const maxAllowedTokenIds = 1024;
const maxLogitBias = 1024;
const maxBias = 100;

const maxBadWords = 256;
const maxBreakers = 64;
const maxTextLength = 256;
/** Smaller penalties could overflow in float32. */
const minRepetitionPenalty = 1e-30;

/** The fields that {@link checkControls} reads. */
export type ControlOptions = Pick<
  SamplingOptions,
  | "typicalP"
  | "presencePenalty"
  | "frequencyPenalty"
  | "repetitionPenalty"
  | "logitBias"
  | "allowedTokenIds"
  | "badWords"
  | "dry"
  | "xtc"
>;

/**
 * Checks what changes logits; undefined fields are neutral. Texts become tokens later: {@link withTexts}.
 *
 * @throws ERR_ARGUMENT, ERR_TOKEN_ID
 */
export function checkControls(
  options: { readonly [K in keyof ControlOptions]?: ControlOptions[K] | undefined },
  vocabSize: number,
): { readonly controls: LogitsControls; readonly texts: ControlTexts } {
  const {
    typicalP = 1,
    presencePenalty = 0,
    frequencyPenalty = 0,
    repetitionPenalty = 1,
  } = options;
  const penalty = { min: -2, max: 2 };
  const { dry, breakers } = checkDry(options.dry, vocabSize);
  const controls = {
    ...neutralControls,
    allowedTokenIds: checkAllowed(options.allowedTokenIds, vocabSize),
    logitBias: checkLogitBias(options.logitBias, vocabSize),
    repetitionPenalty: checkRepetitionPenalty(repetitionPenalty),
    frequencyPenalty: checkNumber("frequencyPenalty", frequencyPenalty, penalty),
    presencePenalty: checkNumber("presencePenalty", presencePenalty, penalty),
    dry,
    typicalP: checkShare("typicalP", typicalP),
    xtc: checkXtc(options.xtc),
  };
  const badWords =
    options.badWords === undefined ? [] : checkTexts("badWords", options.badWords, maxBadWords);
  const areBreakersGiven = breakers.length > 0 && breakers !== defaultBreakers;
  const needTokenizer = badWords.length > 0 || areBreakersGiven;
  return { controls, texts: { badWords, breakers, needTokenizer } };
}

export function checkRepetitionPenalty(value: unknown): number {
  const range = { min: 0, max: 1e6, exclusiveMin: true };
  return Math.max(checkNumber("repetitionPenalty", value, range), minRepetitionPenalty);
}

/** In (0, 1]; not so small that float32 would make it 0. */
export function checkShare(parameter: string, value: unknown): number {
  return Math.max(checkNumber(parameter, value, { min: 0, max: 1, exclusiveMin: true }), 1e-30);
}

/** Whether they change nothing, whatever the row. */
export function isNeutral(controls: LogitsControls): boolean {
  const { allowedTokenIds, badWords, minTokens, logitBias, dry, xtc } = controls;
  const { repetitionPenalty, frequencyPenalty, presencePenalty, typicalP } = controls;
  const hasLists = allowedTokenIds.length + badWords.length + minTokens + logitBias.ids.length > 0;
  const hasPenalties = repetitionPenalty !== 1 || frequencyPenalty !== 0 || presencePenalty !== 0;
  return (
    !hasLists && !hasPenalties && dry.multiplier === 0 && typicalP === 1 && xtc.probability === 0
  );
}

function checkAllowed(ids: unknown, vocabSize: number): Int32Array {
  if (ids === undefined) return noIds;
  const copy = copyTokenIdArray("allowedTokenIds", ids, maxAllowedTokenIds, vocabSize);
  if (copy.length === 0) throw argumentError("allowedTokenIds", "at least one token id", ids);
  return sortedIds(copy, vocabSize);
}

/** A Map or a plain object; its size is looked at before its entries. */
function checkLogitBias(bias: unknown, vocabSize: number): LogitBias {
  if (bias === undefined) return neutralControls.logitBias;
  const expected = `a Map or an object of at most ${maxLogitBias} entries`;
  const object = checkObject("logitBias", bias);
  const keys = object instanceof Map ? undefined : Object.keys(object);
  const size = object instanceof Map ? object.size : keys!.length;
  if (size > maxLogitBias) throw argumentError("logitBias", expected, bias);
  const entries: [unknown, unknown][] =
    object instanceof Map
      ? [...(object as Map<unknown, unknown>)]
      : keys!.map((key) => [idOfKey(key), (object as Record<string, unknown>)[key]]);
  const checked = entries.map(([id, value], index): [number, number] => {
    if (!isTokenId(id, vocabSize)) throw tokenIdError("logitBias", index, id, vocabSize);
    if (typeof value !== "number" || !Number.isFinite(value)) {
      throw argumentError(`logitBias[${id}]`, "a finite number", value);
    }
    return [id, Math.min(Math.max(value, -maxBias), maxBias)];
  });
  checked.sort(([a], [b]) => a - b);
  const ids = Int32Array.from(checked, ([id]) => id);
  return { ids, values: Float32Array.from(checked, ([, value]) => value) };
}

/** The number that a key of an object writes in the usual way, else the key. */
function idOfKey(key: string): unknown {
  return String(Number(key)) === key ? Number(key) : key;
}

function checkDry(
  options: unknown,
  vocabSize: number,
): { readonly dry: DryParams; readonly breakers: readonly string[] } {
  if (options === undefined) return { dry: neutralDry, breakers: [] };
  const given: Partial<Record<keyof DryOptions, unknown>> = checkObject("dry", options);
  const { multiplier, base = 1.75, allowedLength = 2, range = 2 ** 31 - 1 } = given;
  const { sequenceBreakers } = given;
  const copied =
    sequenceBreakers === undefined
      ? []
      : copyArray("dry.sequenceBreakers", sequenceBreakers, maxBreakers);
  const ids = copied.filter((breaker) => typeof breaker !== "string");
  for (const [index, id] of ids.entries()) {
    if (!isTokenId(id, vocabSize)) {
      throw tokenIdError("dry.sequenceBreakers", index, id, vocabSize);
    }
  }
  const texts = copied.filter((breaker) => typeof breaker === "string");
  const dry = {
    multiplier: checkNumber("dry.multiplier", multiplier, { min: 0, max: 1e6 }),
    base: checkNumber("dry.base", base, { min: 1, max: 1e6 }),
    allowedLength: checkInteger("dry.allowedLength", allowedLength, { min: 1, max: 2 ** 31 - 1 }),
    range: checkInteger("dry.range", range, { min: 0, max: 2 ** 31 - 1 }),
    breakers: sortedIds(ids as number[], vocabSize),
  };
  const breakers = checkTexts("dry.sequenceBreakers", texts, maxBreakers);
  return { dry, breakers: sequenceBreakers === undefined ? defaultBreakers : breakers };
}

function checkXtc(options: unknown): Required<XtcOptions> {
  if (options === undefined) return neutralControls.xtc;
  const given: Partial<Record<keyof XtcOptions, unknown>> = checkObject("xtc", options);
  const { probability, threshold = 0.1 } = given;
  return {
    probability: checkNumber("xtc.probability", probability, { min: 0, max: 1 }),
    threshold: checkNumber("xtc.threshold", threshold, { min: 0, max: 1 }),
  };
}

function checkTexts(parameter: string, value: unknown, maxLength: number): string[] {
  const texts = copyArray(parameter, value, maxLength);
  const expected = `a string of 1 to ${maxTextLength} characters without lone surrogates`;
  for (const [index, text] of texts.entries()) {
    const isText = typeof text === "string" && text !== "" && text.length <= maxTextLength;
    if (isText && !hasLoneSurrogate(text)) continue;
    const received = typeof text === "string" ? text : describe(text);
    throw argumentError(`${parameter}[${index}]`, expected, received);
  }
  return texts as string[];
}
