import { maxBeamWidth, maxLengthPenalty, maxOutputs } from "../engine/check-outputs.js";
import type { BeamOptions, GenerateRequest } from "../engine/types.js";
import { defined } from "./defined.js";
import { invalidType, invalidValue, type Fields } from "./fields.js";
import { checkNeutral } from "./support.js";

/** The fields that {@link readOutputs} reads, named as in OpenAI's API and in vLLM. */
export const outputFields = [
  "n",
  "best_of",
  "use_beam_search",
  "length_penalty",
  "early_stopping",
] as const;

/** What a beam search does not look at, with the values (as JSON) that say the same as nothing. */
const neutralBesideBeams: Readonly<Record<string, readonly string[]>> = {
  temperature: ["0", "1"],
  top_p: ["1"],
  top_k: ["-1", "0"],
  min_p: ["0"],
  typical_p: ["1"],
  seed: [],
  stop: ["[]"],
  presence_penalty: ["0"],
  frequency_penalty: ["0"],
  repetition_penalty: ["1"],
  logit_bias: ["{}"],
  allowed_token_ids: [],
  bad_words: ["[]"],
  dry_multiplier: ["0"],
  xtc_probability: ["0"],
};

/** How many outputs each prompt has, and whether they are drawn or searched for. */
export function readOutputs(fields: Fields): Pick<GenerateRequest, "n" | "bestOf" | "beam"> {
  const isSearched = fields.boolean("use_beam_search") ?? false;
  const max = isSearched ? maxBeamWidth : maxOutputs;
  const n = fields.integer("n", { min: 1, max });
  const bestOf = fields.integer("best_of", { min: n ?? 1, max: maxOutputs });
  const beam = readBeam(fields, n ?? 1);
  if (!isSearched) {
    checkBesides(fields, { length_penalty: ["1"], early_stopping: ["false"] }, "needs");
    return defined({ n, bestOf });
  }
  checkBesides(fields, { best_of: [String(n ?? 1)], ...neutralBesideBeams }, "does not go with");
  return { ...defined({ n }), beam };
}

/** As in vLLM, all beams are returned. */
function readBeam(fields: Fields, width: number): BeamOptions {
  const range = { min: -maxLengthPenalty, max: maxLengthPenalty };
  const lengthPenalty = fields.number("length_penalty", range);
  return { width, ...defined({ lengthPenalty, earlyStopping: earlyStopping(fields) }) };
}

function earlyStopping(fields: Fields): boolean | "never" | undefined {
  const value = fields.raw("early_stopping");
  if (value === undefined || typeof value === "boolean" || value === "never") return value;
  const wrong = typeof value === "string" ? invalidValue : invalidType;
  throw wrong("early_stopping", 'true, false or "never"', value);
}

function checkBesides(
  fields: Fields,
  neutral: Readonly<Record<string, readonly string[]>>,
  relation: string,
): void {
  for (const [name, values] of Object.entries(neutral)) {
    const value = fields.raw(name);
    const why = `${relation} \`use_beam_search\``;
    if (value !== undefined) checkNeutral(name, value, values, { why, code: "invalid_value" });
  }
}
