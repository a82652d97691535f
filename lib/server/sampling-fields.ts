import type { GenerateRequest } from "../engine/types.js";
import { defined } from "./defined.js";
import { checkInteger, invalidType, invalidValue, type Fields } from "./fields.js";

const maxInt32 = 2 ** 31 - 1;

/** OpenAI's limit. */
const maxStopTexts = 4;
const maxStopTokenIds = 128;

/** The fields that {@link readSampling} reads. */
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
] as const;

type SamplingFields = Omit<GenerateRequest, "prompt" | "signal" | "maxTokens" | "addSpecialTokens">;

/** What both endpoints say about how tokens are drawn and where they end. Absent fields stay absent. */
export function readSampling(fields: Fields): SamplingFields {
  return defined({
    temperature: fields.number("temperature", { min: 0, max: 2 }),
    topP: topP(fields),
    topK: topK(fields),
    minP: fields.number("min_p", { min: 0, max: 1 }),
    seed: fields.integer("seed", { min: 0, max: Number.MAX_SAFE_INTEGER }),
    stop: stopTexts(fields),
    stopTokenIds: stopTokenIds(fields),
    ignoreEos: fields.boolean("ignore_eos"),
    skipSpecialTokens: fields.boolean("skip_special_tokens"),
  });
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

function stopTokenIds(fields: Fields): readonly number[] | undefined {
  const ids = fields.array("stop_token_ids");
  if (ids === undefined) return undefined;
  if (ids.length > maxStopTokenIds) {
    throw invalidValue("stop_token_ids", `at most ${maxStopTokenIds} token ids`, ids);
  }
  return ids.map((id, i) => checkInteger(`stop_token_ids[${i}]`, id, { min: 0, max: maxInt32 }));
}
