import type { DryOptions, GenerateRequest, XtcOptions } from "../engine/types.js";
import { hasLoneSurrogate } from "../engine/token-ids.js";
import { defined } from "./defined.js";
import { invalidType, invalidValue, type Fields } from "./fields.js";

/** The fields that {@link readRepetition} reads, named as in llama.cpp. */
export const repetitionFields = [
  "dry_multiplier",
  "dry_base",
  "dry_allowed_length",
  "dry_penalty_last_n",
  "dry_sequence_breakers",
  "xtc_probability",
  "xtc_threshold",
] as const;

const maxInt32 = 2 ** 31 - 1;
const maxBreakers = 64;
const maxBreakerLength = 256;

/** DRY and XTC. They are off, as in llama.cpp, without a multiplier and a probability; the other fields are checked anyway. */
export function readRepetition(fields: Fields): Pick<GenerateRequest, "dry" | "xtc"> {
  return defined({ dry: readDry(fields), xtc: readXtc(fields) });
}

function readDry(fields: Fields): DryOptions | undefined {
  const multiplier = fields.number("dry_multiplier", { min: 0, max: 1e6 });
  const options = defined({
    base: fields.number("dry_base", { min: 1, max: 1e6 }),
    allowedLength: fields.integer("dry_allowed_length", { min: 1, max: maxInt32 }),
    range: lastTokens(fields),
    sequenceBreakers: breakers(fields),
  });
  return multiplier === undefined ? undefined : { multiplier, ...options };
}

function readXtc(fields: Fields): XtcOptions | undefined {
  const probability = fields.number("xtc_probability", { min: 0, max: 1 });
  const threshold = fields.number("xtc_threshold", { min: 0, max: 1 });
  return probability === undefined ? undefined : { probability, ...defined({ threshold }) };
}

/** -1 looks at all tokens, as in llama.cpp; the engine says so by no range. */
function lastTokens(fields: Fields): number | undefined {
  const count = fields.integer("dry_penalty_last_n", { min: -1, max: maxInt32 });
  return count === -1 ? undefined : count;
}

function breakers(fields: Fields): readonly string[] | undefined {
  const name = "dry_sequence_breakers";
  const texts = fields.array(name);
  if (texts === undefined) return undefined;
  if (texts.length > maxBreakers) throw invalidValue(name, `at most ${maxBreakers} texts`, texts);
  const expected = `a string of 1 to ${maxBreakerLength} characters without lone surrogates`;
  for (const [i, text] of texts.entries()) {
    const path = `${name}[${i}]`;
    if (typeof text !== "string") throw invalidType(path, expected, text);
    const isRight = text !== "" && text.length <= maxBreakerLength && !hasLoneSurrogate(text);
    if (!isRight) throw invalidValue(path, expected, text);
  }
  return texts as readonly string[];
}
