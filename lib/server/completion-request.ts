import type { GenerateRequest } from "../engine/types.js";
import { maxLogprobs } from "../sampling/sampling-params.js";
import { defined } from "./defined.js";
import { checkInteger, invalidType, invalidValue, type Fields } from "./fields.js";
import { generationFields, readGeneration } from "./generation-fields.js";
import { answerFields, openRequest, readAnswerOptions, type AnswerOptions } from "./request.js";
import { readMaxTokens } from "./sampling-fields.js";
import { commonIgnored, commonUnsupported, type FieldSupport } from "./support.js";

/** OpenAI's default. */
const defaultMaxTokens = 16;
/** Prompts in one request at most. */
const maxPrompts = 128;
const tokenIdRange = { min: 0, max: 2 ** 31 - 1 };

const support: FieldSupport = {
  supported: [
    ...answerFields,
    ...generationFields,
    "prompt",
    "logprobs",
    "max_tokens",
    "add_special_tokens",
  ],
  ignored: commonIgnored,
  unsupported: { ...commonUnsupported, echo: ["false"], suffix: ['""'] },
};

export interface CompletionRequest extends AnswerOptions {
  /** Each has `n` choices of the answer. */
  readonly prompts: readonly Prompt[];
  /** What holds for all of them. */
  readonly request: Omit<GenerateRequest, "prompt">;
}

type Prompt = string | readonly number[];

/** Reads the body of POST /v1/completions. */
export function parseCompletionRequest(body: unknown, model: string): CompletionRequest {
  const fields = openRequest(body, support, model);
  const prompts = readPrompts(fields);
  const request = {
    ...readGeneration(fields),
    maxTokens: readMaxTokens(fields, "max_tokens") ?? defaultMaxTokens,
    ...defined({
      addSpecialTokens: fields.boolean("add_special_tokens"),
      logprobs: fields.integer("logprobs", { min: 0, max: maxLogprobs }),
    }),
  };
  return { ...readAnswerOptions(fields, request), prompts, request };
}

/** Text, token ids, or several of either. */
function readPrompts(fields: Fields): readonly Prompt[] {
  const value = fields.raw("prompt");
  if (value === undefined) throw fields.missing("prompt");
  if (typeof value === "string") return [value];
  if (!Array.isArray(value)) throw promptType(value);
  if (value.length === 0) throw invalidValue("prompt", "at least one token or text", value);
  if (typeof value[0] === "number") return [readTokenIds(value, "prompt")];
  if (value.length > maxPrompts) throw invalidValue("prompt", `at most ${maxPrompts} texts`, value);
  return typeof value[0] === "string" ? value.map(readText) : value.map(readIdsOfOne);
}

function readText(value: unknown, index: number): string {
  if (typeof value === "string") return value;
  throw invalidType(`prompt[${index}]`, "a string, as its first item", value);
}

function readIdsOfOne(value: unknown, index: number): readonly number[] {
  if (!Array.isArray(value)) throw index === 0 ? promptType(value) : itemType(value, index);
  return readTokenIds(value, `prompt[${index}]`);
}

function readTokenIds(values: readonly unknown[], path: string): readonly number[] {
  const wrong = values.findIndex((id) => !isTokenId(id));
  if (wrong >= 0) checkInteger(`${path}[${wrong}]`, values[wrong], tokenIdRange);
  return values as readonly number[];
}

function isTokenId(id: unknown): boolean {
  return Number.isInteger(id) && (id as number) >= 0 && (id as number) <= tokenIdRange.max;
}

function promptType(value: unknown): Error {
  return invalidType("prompt", "a string, an array of strings or arrays of token ids", value);
}

function itemType(value: unknown, index: number): Error {
  return invalidType(`prompt[${index}]`, "an array of token ids, as its first item", value);
}
