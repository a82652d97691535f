import { checkBoolean, checkInteger, checkObject, checkSignal } from "../arguments.js";
import { argumentError, describe, PagodaError } from "../errors.js";
import type { ChatMessage } from "../loading/chat.js";
import {
  resolveSamplingParams,
  type SamplingDefaults,
  type SamplingParams,
} from "../sampling/sampling-params.js";
import type { ChatRequest, GenerateRequest } from "./types.js";

/** What requests are checked against. */
export interface RequestLimits {
  /** Token ids are below this. */
  readonly vocabSize: number;
  /** Prompt and output tokens of one request at most. */
  readonly maxModelLen: number;
  readonly sampling: SamplingDefaults;
}

/** A request's fields but for the prompt: complete, in range, and no longer the caller's objects. */
export interface CheckedRequest {
  readonly sampling: SamplingParams;
  /** Infinity: as many as the context holds. */
  readonly maxTokens: number;
  readonly stop: readonly string[];
  readonly stopTokenIds: ReadonlySet<number>;
  readonly ignoreEos: boolean;
  readonly skipSpecialTokens: boolean;
  readonly addSpecialTokens: boolean;
  readonly signal: AbortSignal | undefined;
}

const maxStopTexts = 16;
const maxStopTokenIds = 128;

/**
 * Checks a request of `engine.generate`. Every property of the caller's object is read once.
 *
 * @throws ERR_ARGUMENT, ERR_TOKEN_ID, ERR_EMPTY_PROMPT, ERR_CONTEXT_LENGTH
 */
export function checkGenerateRequest(
  request: GenerateRequest,
  limits: RequestLimits,
): { readonly prompt: string | Int32Array; readonly request: CheckedRequest } {
  checkObject("request", request);
  const { prompt, addSpecialTokens } = request;
  const checked = checkCommon(request, limits);
  return {
    prompt: typeof prompt === "string" ? prompt : checkPrompt(prompt, limits),
    request: {
      ...checked,
      addSpecialTokens: optionalBoolean("addSpecialTokens", addSpecialTokens, true),
    },
  };
}

/**
 * Checks a request of `engine.chat`; what the messages must be is up to the chat template.
 *
 * @throws ERR_ARGUMENT
 */
export function checkChatRequest(
  request: ChatRequest,
  limits: RequestLimits,
): { readonly messages: readonly ChatMessage[]; readonly request: CheckedRequest } {
  checkObject("request", request);
  const { messages } = request;
  const checked = checkCommon(request, limits);
  if (!Array.isArray(messages) || messages.length === 0) {
    throw argumentError("messages", "an array of at least one message", messages);
  }
  const copy = Array.from(messages as readonly ChatMessage[], (message, index) => {
    checkObject(`messages[${index}]`, message);
    return message;
  });
  return { messages: copy, request: { ...checked, addSpecialTokens: false } };
}

function checkPrompt(prompt: unknown, { vocabSize, maxModelLen }: RequestLimits): Int32Array {
  if (!isTokenIdList(prompt)) {
    throw argumentError("prompt", "a string, an array of token ids or an Int32Array", prompt);
  }
  const length = prompt.length;
  checkPromptLength(length, maxModelLen);
  return copyTokenIds("prompt", prompt, length, vocabSize);
}

/**
 * Copies the ids of `engine.logits`.
 *
 * @param maxLength - tokens that the context and the KV cache hold
 * @throws ERR_ARGUMENT, ERR_EMPTY_PROMPT, ERR_CONTEXT_LENGTH, ERR_TOKEN_ID (details.index)
 */
export function checkLogitsIds(ids: unknown, vocabSize: number, maxLength: number): Int32Array {
  if (!isTokenIdList(ids))
    throw argumentError("ids", "an array of token ids or an Int32Array", ids);
  const length = ids.length;
  checkPromptLength(length, maxLength + 1);
  return copyTokenIds("ids", ids, length, vocabSize);
}

/** @throws ERR_EMPTY_PROMPT, or ERR_CONTEXT_LENGTH when no room is left for one token more. */
export function checkPromptLength(length: number, maxModelLen: number): void {
  if (length === 0) throw new PagodaError("ERR_EMPTY_PROMPT", "The prompt has no tokens");
  if (length < maxModelLen) return;
  throw new PagodaError(
    "ERR_CONTEXT_LENGTH",
    `${length} tokens do not leave room for another one: prompt and output together may have ${maxModelLen}`,
    { details: { promptTokens: length, maxModelLen } },
  );
}

/** @throws ERR_TOKEN_ID (details.index) for an id of the tokenizer that the model does not know. */
export function checkVocabulary(ids: Int32Array, vocabSize: number): void {
  const index = ids.findIndex((id) => !isTokenId(id, vocabSize));
  if (index >= 0) throw tokenIdError(`prompt[${index}]`, index, ids[index], vocabSize);
}

type Common = Omit<CheckedRequest, "addSpecialTokens">;

/** In better-sqlite3's order: read, check the raw values, then resolve them. */
function checkCommon(
  request: Omit<GenerateRequest, "prompt" | "addSpecialTokens">,
  limits: RequestLimits,
): Common {
  const { temperature, topK, topP, minP, seed, ...rest } = readOnce(request);
  const signal = checkSignal("signal", rest.signal);
  const maxTokens = rest.maxTokens === undefined ? Infinity : checkMaxTokens(rest.maxTokens);
  const ignoreEos = optionalBoolean("ignoreEos", rest.ignoreEos, false);
  const skipSpecialTokens = optionalBoolean("skipSpecialTokens", rest.skipSpecialTokens, true);
  const stop = checkStopTexts(rest.stop);
  const stopTokenIds = checkStopTokenIds(rest.stopTokenIds, limits.vocabSize);
  const sampling = resolveSamplingParams({ temperature, topK, topP, minP, seed }, limits.sampling);
  return { sampling, maxTokens, stop, stopTokenIds, ignoreEos, skipSpecialTokens, signal };
}

/** Getters of the caller's object may have side effects, or answer differently the next time. */
function readOnce(request: Omit<GenerateRequest, "prompt" | "addSpecialTokens">) {
  const { temperature, topK, topP, minP, seed } = request;
  const { maxTokens, stop, stopTokenIds, ignoreEos, skipSpecialTokens, signal } = request;
  const sampling = { temperature, topK, topP, minP, seed };
  return { ...sampling, maxTokens, stop, stopTokenIds, ignoreEos, skipSpecialTokens, signal };
}

function checkMaxTokens(maxTokens: unknown): number {
  return checkInteger("maxTokens", maxTokens, { min: 1, max: Number.MAX_SAFE_INTEGER });
}

function optionalBoolean(parameter: string, value: unknown, byDefault: boolean): boolean {
  return value === undefined ? byDefault : checkBoolean(parameter, value);
}

function checkStopTexts(stop: unknown): string[] {
  if (stop === undefined) return [];
  const texts = typeof stop === "string" ? [stop] : copyArray("stop", stop, maxStopTexts);
  for (const [index, text] of texts.entries()) {
    if (typeof text !== "string" || text === "" || hasLoneSurrogate(text)) {
      throw argumentError(`stop[${index}]`, "a non-empty string without lone surrogates", text);
    }
  }
  return texts as string[];
}

function checkStopTokenIds(ids: unknown, vocabSize: number): Set<number> {
  if (ids === undefined) return new Set();
  const copy = copyArray("stopTokenIds", ids, maxStopTokenIds);
  for (const [index, id] of copy.entries()) {
    if (!isTokenId(id, vocabSize))
      throw tokenIdError(`stopTokenIds[${index}]`, index, id, vocabSize);
  }
  return new Set(copy as number[]);
}

/** Reads the length first, so that a huge array is refused before it is copied. */
function copyArray(parameter: string, value: unknown, maxLength: number): unknown[] {
  const expected = `an array of at most ${maxLength} items`;
  if (!Array.isArray(value)) throw argumentError(parameter, expected, value);
  const length: number = value.length;
  if (length > maxLength) throw argumentError(parameter, expected, value);
  return Array.from({ length }, (_, index) => value[index] as unknown);
}

function isTokenIdList(ids: unknown): ids is ArrayLike<unknown> {
  return Array.isArray(ids) || ids instanceof Int32Array;
}

function copyTokenIds(
  parameter: string,
  ids: ArrayLike<unknown>,
  length: number,
  vocabSize: number,
): Int32Array {
  const copy = new Int32Array(length);
  for (let index = 0; index < length; index++) {
    const id = ids[index];
    if (!isTokenId(id, vocabSize))
      throw tokenIdError(`${parameter}[${index}]`, index, id, vocabSize);
    copy[index] = id;
  }
  return copy;
}

function isTokenId(id: unknown, vocabSize: number): id is number {
  return Number.isInteger(id) && (id as number) >= 0 && (id as number) < vocabSize;
}

function tokenIdError(name: string, index: number, id: unknown, vocabSize: number): PagodaError {
  return new PagodaError(
    "ERR_TOKEN_ID",
    `Expected a token id in [0, ${vocabSize - 1}] for \`${name}\` but received ${describe(id)}`,
    { details: { parameter: name, index, received: describe(id), vocabSize } },
  );
}

/** Unpaired halves of UTF-16 surrogates cannot occur in decoded text. */
function hasLoneSurrogate(text: string): boolean {
  return /\p{Surrogate}/u.test(text);
}
