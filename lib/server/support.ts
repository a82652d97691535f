import { badRequest } from "./api-error.js";
import type { Fields } from "./fields.js";

/** Which fields an endpoint knows, beside those it reads. */
export interface FieldSupport {
  /** Read by the endpoint's parser. */
  readonly supported: readonly string[];
  /** Do not change the result, so they are ignored. */
  readonly ignored: readonly string[];
  /** Not supported yet, with the values (as JSON) that leave the result as it is and are therefore accepted. */
  readonly unsupported: Readonly<Record<string, readonly string[]>>;
}

/** Throws a 400 for a field that would change the result but is not supported, or that is unknown. */
export function checkSupport(fields: Fields, support: FieldSupport): void {
  for (const name of fields.names()) {
    const value = fields.raw(name);
    if (value === undefined) continue;
    if (support.supported.includes(name) || support.ignored.includes(name)) continue;
    if (!Object.hasOwn(support.unsupported, name)) {
      throw badRequest(`Unknown parameter: \`${clip(name)}\``, clip(name), "unknown_parameter");
    }
    const neutral = support.unsupported[name] ?? [];
    if (neutral.includes(JSON.stringify(value))) continue;
    const hint = neutral.length === 0 ? "" : `; it can only be ${neutral.join(" or ")}`;
    throw badRequest(`\`${name}\` is not supported yet${hint}`, name, "unsupported_parameter");
  }
}

function clip(name: string): string {
  return name.length > 64 ? `${name.slice(0, 64)}…` : name;
}

/** Fields about storage, billing and caching that both endpoints of OpenAI take. */
export const commonIgnored = [
  "user",
  "metadata",
  "store",
  "service_tier",
  "safety_identifier",
  "prompt_cache_key",
  "prompt_cache_retention",
] as const;

/** Sampling fields of OpenAI's or vLLM's API that the engine has no counterpart for yet. */
export const commonUnsupported: FieldSupport["unsupported"] = {
  n: ["1"],
  length_penalty: ["1"],
  best_of: ["1"],
  use_beam_search: ["false"],
  spaces_between_special_tokens: ["true"],
  truncate_prompt_tokens: [],
  prompt_logprobs: [],
  guided_json: [],
  guided_regex: [],
  guided_choice: [],
  guided_grammar: [],
  structured_outputs: [],
  response_format: ['{"type":"text"}'],
};
