import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { PagodaError } from "../errors.js";
import type { ChatTemplates } from "./chat.js";

/** A token of `added_tokens` in tokenizer.json. */
export interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly special?: boolean;
}

/** tokenizer.json, checked as far as this package relies on it. A vocabulary that comes from elsewhere may be a map. */
export interface TokenizerJson {
  readonly model: Readonly<Record<string, unknown>>;
  readonly added_tokens: readonly AddedToken[];
  readonly decoder: unknown;
  readonly normalizer: unknown;
  readonly pre_tokenizer: unknown;
  readonly post_processor: unknown;
}

export interface TokenizerFiles {
  readonly tokenizer: TokenizerJson;
  /** tokenizer_config.json; empty when there is none. */
  readonly config: Readonly<Record<string, unknown>>;
  /** Tokens that end a sequence; without it the config's `eos_token` does. */
  readonly eosTokenIds?: readonly number[];
}

const maxTokenizerBytes = 256 * 2 ** 20;
const maxTemplateBytes = 2 ** 20;
/** Far above any vocabulary; bounds the token table, which is indexed by id. */
const maxTokenId = 2 ** 24;

/** The names under which tokenizer_config.json lists special tokens. */
const specialTokenNames = [
  "bos_token",
  "eos_token",
  "unk_token",
  "sep_token",
  "pad_token",
  "cls_token",
  "mask_token",
  "additional_special_tokens",
  "extra_special_tokens",
];

export function invalidTokenizer(path: string, reason: string, cause?: unknown): PagodaError {
  return new PagodaError("ERR_TOKENIZER_INVALID", `${path}: ${reason}`, {
    details: { file: path, reason },
    ...(cause === undefined ? {} : { cause }),
  });
}

/**
 * Reads tokenizer.json and tokenizer_config.json. Synchronous: it runs in a worker.
 *
 * @throws ERR_TOKENIZER_INVALID
 */
export function readTokenizerFiles(directory: string): TokenizerFiles {
  const path = join(directory, "tokenizer.json");
  const tokenizer = readJsonObject(path);
  if (tokenizer === undefined) throw invalidTokenizer(path, "the file does not exist");
  const config = readJsonObject(join(directory, "tokenizer_config.json")) ?? {};
  return { tokenizer: checkTokenizer(tokenizer, path), config };
}

/**
 * The chat templates: chat_template.jinja if it exists, else `chat_template` of the config, which
 * is a source or a list of named ones.
 *
 * @param directory undefined for a model without one
 */
export function readChatTemplates(
  directory: string | undefined,
  { config }: TokenizerFiles,
): ChatTemplates {
  const file =
    directory === undefined
      ? undefined
      : readText(join(directory, "chat_template.jinja"), maxTemplateBytes);
  const named = config["chat_template"];
  const sources: [string, unknown][] = Array.isArray(named)
    ? named.filter(isRecord).map((entry) => [String(entry["name"]), entry["template"]])
    : [["default", named]];
  if (file !== undefined) sources.push(["default", file]);
  const isSource = ([, source]: [string, unknown]) =>
    typeof source === "string" && source.length <= maxTemplateBytes;
  return {
    sources: Object.fromEntries(sources.filter(isSource)) as Record<string, string>,
    variables: specialTokenVariables(config),
  };
}

function specialTokenVariables(
  config: Readonly<Record<string, unknown>>,
): Record<string, string | string[]> {
  const entries = specialTokenNames.map((name): [string, string | string[] | undefined] => {
    const value = config[name];
    return [name, Array.isArray(value) ? value.flatMap(contentsOf) : contentsOf(value)[0]];
  });
  const present = entries.filter(([, value]) => value !== undefined);
  return Object.fromEntries(present) as Record<string, string | string[]>;
}

/** The texts of one special token of the config: a string, an AddedToken, or a list or record. */
function contentsOf(value: unknown): string[] {
  if (typeof value === "string") return [value];
  if (Array.isArray(value)) return value.flatMap(contentsOf);
  if (!isRecord(value)) return [];
  const { content } = value;
  return typeof content === "string" ? [content] : Object.values(value).flatMap(contentsOf);
}

/** Every text that is special, by the config or by tokenizer.json. */
export function specialContents({ tokenizer, config }: TokenizerFiles): Set<string> {
  const flagged = tokenizer.added_tokens.filter(({ special }) => special);
  const named = specialTokenNames.flatMap((name) => contentsOf(config[name]));
  return new Set([...flagged.map(({ content }) => content), ...named]);
}

/** The token table: text by id, with holes where an id is unused. */
export function tokenTable({ tokenizer }: TokenizerFiles): (string | undefined)[] {
  const table: (string | undefined)[] = [];
  const { vocab } = tokenizer.model;
  if (Array.isArray(vocab)) for (const [token] of vocab as [string, number][]) table.push(token);
  else for (const [token, id] of entriesOf(vocab as object)) table[id] = token;
  for (const { id, content } of tokenizer.added_tokens) table[id] = content;
  return table;
}

function entriesOf(vocab: object): Iterable<[string, number]> {
  return vocab instanceof Map ? (vocab as Map<string, number>) : Object.entries(vocab);
}

function checkTokenizer(raw: Record<string, unknown>, path: string): TokenizerJson {
  const fail = (reason: string) => invalidTokenizer(path, reason);
  const { model, added_tokens: added = [] } = raw;
  if (!isRecord(model)) throw fail("`model` is not an object");
  if (!isVocabulary(model["vocab"])) {
    throw fail("`model.vocab` is not a map of tokens to ids, nor a list of tokens with scores");
  }
  if (!Array.isArray(added) || !added.every(isAddedToken)) {
    throw fail("`added_tokens` is not a list of tokens with `id` and `content`");
  }
  const { decoder, normalizer, pre_tokenizer, post_processor } = raw;
  return {
    ...raw,
    model,
    added_tokens: added,
    decoder: decoder ?? null,
    normalizer: normalizer ?? null,
    pre_tokenizer: pre_tokenizer ?? null,
    post_processor: post_processor ?? null,
  };
}

function isVocabulary(vocab: unknown): boolean {
  if (isRecord(vocab)) return Object.values(vocab).every(isTokenId);
  return Array.isArray(vocab) && vocab.length <= maxTokenId && vocab.every(isScoredToken);
}

function isScoredToken(entry: unknown): boolean {
  return Array.isArray(entry) && typeof entry[0] === "string" && Number.isFinite(entry[1]);
}

function isAddedToken(token: unknown): token is AddedToken {
  if (!isRecord(token)) return false;
  const { id, content, special = false } = token;
  const isText = typeof content === "string" && content !== "";
  return isTokenId(id) && isText && typeof special === "boolean";
}

function isTokenId(id: unknown): boolean {
  return Number.isInteger(id) && (id as number) >= 0 && (id as number) < maxTokenId;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function readJsonObject(path: string): Record<string, unknown> | undefined {
  const text = readText(path, maxTokenizerBytes);
  if (text === undefined) return undefined;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw invalidTokenizer(path, `it is not JSON: ${(cause as Error).message}`, cause);
  }
  if (isRecord(value)) return value;
  throw invalidTokenizer(path, "it is not a JSON object");
}

function readText(path: string, maxBytes: number): string | undefined {
  try {
    const { size } = statSync(path);
    if (size <= maxBytes) return readFileSync(path, "utf8");
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw invalidTokenizer(path, `it cannot be read: ${(cause as Error).message}`, cause);
  }
  throw invalidTokenizer(path, `it has more than ${maxBytes} bytes`);
}
