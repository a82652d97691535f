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
    checkNeutral(name, value, support.unsupported[name] ?? [], {
      why: "is not supported yet",
      code: "unsupported_parameter",
    });
  }
}

/** Throws a 400 unless the value, as JSON, is one of those that change nothing. */
export function checkNeutral(
  name: string,
  value: unknown,
  neutral: readonly string[],
  { why, code }: { readonly why: string; readonly code: string },
): void {
  if (neutral.includes(JSON.stringify(value))) return;
  const hint = neutral.length === 0 ? "" : `; it can only be ${neutral.join(" or ")}`;
  throw badRequest(`\`${name}\` ${why}${hint}`, name, code);
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
  spaces_between_special_tokens: ["true"],
  truncate_prompt_tokens: [],
  guided_json: [],
  guided_regex: [],
  guided_choice: [],
  guided_grammar: [],
  structured_outputs: [],
  response_format: ['{"type":"text"}'],
};
