import type { GenerateRequest } from "../engine/types.js";
import { defined } from "./defined.js";
import { checkInteger, invalidType, invalidValue, type Fields } from "./fields.js";

const maxInt32 = 2 ** 31 - 1;

/** OpenAI's limit. */
const maxStopTexts = 4;
const maxStopTokenIds = 128;
/** vLLM's limit. */
const maxListedTokens = 1024;
const penaltyRange = { min: -2, max: 2 };

/** The fields that {@link readSampling} and {@link readEnding} read. */
export const samplingFields = [
  "temperature",
  "top_p",
  "top_k",
  "min_p",
  "seed",
  "stop",
  "stop_token_ids",
  "ignore_eos",
  "skip_special_tokens",
  "presence_penalty",
  "frequency_penalty",
  "repetition_penalty",
  "typical_p",
  "logit_bias",
  "allowed_token_ids",
  "bad_words",
  "min_tokens",
  "include_stop_str_in_output",
] as const;

type SamplingField = "temperature" | "topP" | "topK" | "minP" | "seed" | "stop" | LogitsField;

/** How tokens are drawn and which texts end them: what does not go with a beam search. Absent fields stay absent. */
export function readSampling(fields: Fields): Pick<GenerateRequest, SamplingField> {
  return defined({
    temperature: fields.number("temperature", { min: 0, max: 2 }),
    topP: topP(fields),
    topK: topK(fields),
    minP: fields.number("min_p", { min: 0, max: 1 }),
    seed: fields.integer("seed", { min: 0, max: Number.MAX_SAFE_INTEGER }),
    stop: stopTexts(fields),
    ...readLogitsControls(fields),
  });
}

type EndingField = "stopTokenIds" | "ignoreEos" | "skipSpecialTokens" | "includeStop" | "minTokens";

/** Which tokens end an output, and what is left out of its text. */
export function readEnding(fields: Fields): Pick<GenerateRequest, EndingField> {
  return defined({
    stopTokenIds: tokenIds(fields, "stop_token_ids", maxStopTokenIds),
    ignoreEos: fields.boolean("ignore_eos"),
    skipSpecialTokens: fields.boolean("skip_special_tokens"),
    includeStop: fields.boolean("include_stop_str_in_output"),
    minTokens: fields.integer("min_tokens", { min: 0, max: maxInt32 }),
  });
}

type LogitsField =
  | "presencePenalty"
  | "frequencyPenalty"
  | "repetitionPenalty"
  | "typicalP"
  | "logitBias"
  | "allowedTokenIds"
  | "badWords";

function readLogitsControls(fields: Fields): {
  readonly [K in LogitsField]: GenerateRequest[K] | undefined;
} {
  return {
    presencePenalty: fields.number("presence_penalty", penaltyRange),
    frequencyPenalty: fields.number("frequency_penalty", penaltyRange),
    repetitionPenalty: positive(fields, "repetition_penalty", 1e6),
    typicalP: positive(fields, "typical_p", 1),
    logitBias: logitBias(fields),
    allowedTokenIds: tokenIds(fields, "allowed_token_ids", maxListedTokens),
    badWords: badWords(fields),
  };
}

/** Above 0. */
function positive(fields: Fields, name: string, max: number): number | undefined {
  const value = fields.number(name, { min: 0, max });
  if (value === 0) throw invalidValue(fields.path(name), `a number in (0, ${max}]`, value);
  return value;
}

/** An object from token ids to biases. */
function logitBias(fields: Fields): ReadonlyMap<number, number> | undefined {
  const bias = fields.object("logit_bias");
  if (bias === undefined) return undefined;
  const names = bias.names();
  if (names.length > maxListedTokens) {
    throw invalidValue("logit_bias", `at most ${maxListedTokens} token ids`, names);
  }
  return new Map(
    names.map((name) => {
      const id = String(Number(name)) === name ? Number(name) : NaN;
      checkInteger(bias.path(name), id, { min: 0, max: maxInt32 });
      const value = bias.number(name, { min: -100, max: 100 });
      if (value === undefined) throw invalidType(bias.path(name), "a number", null);
      return [id, value];
    }),
  );
}

function badWords(fields: Fields): readonly string[] | undefined {
  const words = fields.array("bad_words");
  for (const [i, word] of (words ?? []).entries()) {
    if (typeof word !== "string") throw invalidType(`bad_words[${i}]`, "a string", word);
  }
  return words as readonly string[] | undefined;
}

export function readMaxTokens(fields: Fields, name: string): number | undefined {
  return fields.integer(name, { min: 1, max: maxInt32 });
}

/** OpenAI allows 0, which keeps the most probable token alone; the engine wants more than 0. */
function topP(fields: Fields): number | undefined {
  const value = fields.number("top_p", { min: 0, max: 1 });
  return value === undefined ? undefined : Math.max(value, 1e-6);
}

/** -1 keeps all, as in vLLM; the engine says 0. */
function topK(fields: Fields): number | undefined {
  const value = fields.integer("top_k", { min: -1, max: maxInt32 });
  return value === undefined ? undefined : Math.max(value, 0);
}

function stopTexts(fields: Fields): readonly string[] | undefined {
  const value = fields.raw("stop");
  if (value === undefined) return undefined;
  const texts: readonly unknown[] = Array.isArray(value) ? value : [value];
  const expected = `a string or an array of at most ${maxStopTexts} strings, none empty,`;
  for (const text of texts) {
    if (typeof text !== "string") throw invalidType("stop", expected, value);
    if (text === "") throw invalidValue("stop", expected, value);
  }
  if (texts.length > maxStopTexts) throw invalidValue("stop", expected, value);
  return texts as readonly string[];
}

function tokenIds(fields: Fields, name: string, maxLength: number): readonly number[] | undefined {
  const ids = fields.array(name);
  if (ids === undefined) return undefined;
  if (ids.length > maxLength) throw invalidValue(name, `at most ${maxLength} token ids`, ids);
  return ids.map((id, i) => checkInteger(`${name}[${i}]`, id, { min: 0, max: maxInt32 }));
}
