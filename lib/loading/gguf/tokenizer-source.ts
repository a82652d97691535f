import { describe, type PagodaError } from "../../errors.js";
import { corrupt } from "../safetensors-header.js";
import { withoutUndefined } from "../without-undefined.js";
import type { GgufHeader } from "./header.js";
import type { ArrayRegion, MetadataValue } from "./metadata.js";
import { preTokenizers } from "./pre-tokenizers.js";
import { unsupportedInFile } from "./unsupported.js";

/** What the metadata of a GGUF file says of its tokenizer; the arrays are read in a worker. Plain data. */
export interface GgufTokenizerSource {
  /** Absolute path. */
  readonly file: string;
  /** Byte-level BPE with merges, or sentencepiece's BPE with scores. */
  readonly model: "gpt2" | "llama";
  /** Key of {@link preTokenizers}, for `gpt2`. */
  readonly pre: string;
  /** Text of each token, by id. */
  readonly tokens: ArrayRegion;
  /** Of `llama`: the larger the score, the earlier a token is merged. */
  readonly scores?: ArrayRegion | readonly number[];
  /** Kind of each token. */
  readonly types?: ArrayRegion | readonly number[];
  /** Of `gpt2`: pairs with a space between them, the first one merged first. */
  readonly merges?: ArrayRegion;
  /** Ids by role, such as `bos` or `eos`. */
  readonly specialIds: Readonly<Partial<Record<SpecialRole, number>>>;
  readonly addBos?: boolean;
  readonly addEos?: boolean;
  readonly addSpacePrefix?: boolean;
  /** Jinja source by name. */
  readonly chatTemplates: Readonly<Record<string, string>>;
}

/** Roles of special tokens, and the names of their keys. */
const specialKeys = {
  bos: "bos_token_id",
  eos: "eos_token_id",
  eot: "eot_token_id",
  eom: "eom_token_id",
  unk: "unknown_token_id",
  pad: "padding_token_id",
} as const;

export type SpecialRole = keyof typeof specialKeys;

/** Far above any vocabulary; bounds what a worker makes of the file. */
const maxTokens = 2 ** 21;

/**
 * The tokenizer of a GGUF file; undefined when it has none.
 *
 * @throws ERR_MODEL_UNSUPPORTED for other kinds and unknown pre-tokenizers, `details.supported` lists
 * those that are known; ERR_MODEL_CORRUPT for keys of wrong types
 */
export function ggufTokenizer(header: GgufHeader): GgufTokenizerSource | undefined {
  const keys = new TokenizerKeys(header);
  const model = keys.get("model", "string");
  if (model === undefined || model === "no_vocab" || model === "none") return undefined;
  if (model !== "gpt2" && model !== "llama") {
    throw keys.unsupported(`the tokenizer ${describe(model)}`, ["gpt2", "llama"]);
  }
  const pre = keys.get("pre", "string") ?? "default";
  if (model === "gpt2" && !preTokenizers.has(pre)) {
    throw keys.unsupported(`the pre-tokenizer ${describe(pre)}`, [...preTokenizers.keys()]);
  }
  const tokens = keys.strings("tokens");
  if (tokens === undefined) throw keys.corrupt("tokens", "a list of texts");
  if (tokens.length > maxTokens) throw keys.corrupt("tokens", `at most ${maxTokens} texts`);
  const { length } = tokens;
  return withoutUndefined({
    file: header.file.path,
    model,
    pre,
    tokens,
    scores: keys.numbers("scores", "f32", length),
    types: keys.numbers("token_type", "i32", length),
    merges: keys.strings("merges"),
    specialIds: keys.specialIds(length),
    addBos: keys.get("add_bos_token", "boolean"),
    addEos: keys.get("add_eos_token", "boolean"),
    addSpacePrefix: keys.get("add_space_prefix", "boolean"),
    chatTemplates: chatTemplates(header),
  });
}

interface ValueTypes {
  readonly string: string;
  readonly boolean: boolean;
  readonly number: number;
}

/** The keys below `tokenizer.ggml`. */
class TokenizerKeys {
  readonly #header: GgufHeader;

  constructor(header: GgufHeader) {
    this.#header = header;
  }

  #raw(key: string): MetadataValue | undefined {
    return this.#header.metadata.get(`tokenizer.ggml.${key}`);
  }

  get<T extends keyof ValueTypes>(key: string, type: T): ValueTypes[T] | undefined {
    const value = this.#raw(key);
    if (value === undefined || typeof value === type) return value as ValueTypes[T] | undefined;
    throw this.corrupt(key, `a ${type}`);
  }

  strings(key: string): ArrayRegion | undefined {
    const value = this.#raw(key);
    if (value === undefined || isRegion(value, "string")) return value;
    throw this.corrupt(key, "a list of texts");
  }

  /** One number for each token. */
  numbers(
    key: string,
    elementType: string,
    length: number,
  ): ArrayRegion | readonly number[] | undefined {
    const value = this.#raw(key);
    if (value === undefined) return undefined;
    const isList = Array.isArray(value) || isRegion(value, elementType);
    if (isList && value.length === length) return value;
    throw this.corrupt(key, `a list of ${length} numbers (${elementType})`);
  }

  /** Ids outside of the vocabulary are ignored, as in llama.cpp. */
  specialIds(length: number): Partial<Record<SpecialRole, number>> {
    const ids = Object.entries(specialKeys).map(
      ([role, key]) => [role, this.get(key, "number")] as const,
    );
    return Object.fromEntries(
      ids.filter(([, id]) => id !== undefined && Number.isInteger(id) && id >= 0 && id < length),
    );
  }

  corrupt(key: string, expected: string): PagodaError {
    return corrupt(this.#header.file.path, `\`tokenizer.ggml.${key}\` is not ${expected}`);
  }

  unsupported(feature: string, supported: readonly string[]): PagodaError {
    return unsupportedInFile(this.#header.file.path, feature, supported);
  }
}

function isRegion(value: MetadataValue, elementType: string): value is ArrayRegion {
  return typeof value === "object" && "offset" in value && value.elementType === elementType;
}

const templateKey = "tokenizer.chat_template";

/** `tokenizer.chat_template` is the default one, `tokenizer.chat_template.NAME` another one. */
function chatTemplates({ metadata }: GgufHeader): Record<string, string> {
  const templates = [...metadata]
    .filter(([key, value]) => key.startsWith(templateKey) && typeof value === "string")
    .map(([key, value]) => [key.slice(templateKey.length + 1) || "default", value as string]);
  return Object.fromEntries(templates) as Record<string, string>;
}
