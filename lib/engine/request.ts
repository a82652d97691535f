import { checkBoolean, checkInteger, checkNumber, checkObject, checkSignal } from "../arguments.js";
import { argumentError, PagodaError } from "../errors.js";
import type { ChatMessage } from "../loading/chat.js";
import { checkSampling, type CheckedSampling } from "../sampling/check-sampling.js";
import { checkLogprobs, type SamplingDefaults } from "../sampling/sampling-params.js";
import { priorityRange } from "../scheduler/policy.js";
import { checkOutputs, type CheckedOutputs } from "./check-outputs.js";
import {
  concatenate,
  copyArray,
  copyTokenIdArray,
  hasLoneSurrogate,
  isTokenId,
  tokenIdError,
} from "./token-ids.js";
import type { ChatRequest, GenerateRequest } from "./types.js";

/** What requests are checked against. */
export interface RequestLimits {
  /** Token ids are below this. */
  readonly vocabSize: number;
  /** Prompt and output tokens of one request at most. */
  readonly maxModelLen: number;
  readonly eosTokenIds: ReadonlySet<number>;
  readonly sampling: SamplingDefaults;
}

/** A request's fields but for the prompt: complete, in range, and no longer the caller's objects. */
export interface CheckedRequest extends CheckedSampling {
  readonly outputs: CheckedOutputs;
  /** Infinity: as many as the context holds. */
  readonly maxTokens: number;
  readonly stop: readonly string[];
  readonly stopTokenIds: ReadonlySet<number>;
  readonly ignoreEos: boolean;
  readonly includeStop: boolean;
  /** Undefined: none. */
  readonly promptLogprobs: number | undefined;
  readonly skipSpecialTokens: boolean;
  readonly addSpecialTokens: boolean;
  readonly priority: number;
  /** Milliseconds from the call. */
  readonly deadlineMs: number | undefined;
  readonly cacheSalt: string | undefined;
  readonly signal: AbortSignal | undefined;
}

const maxStopTexts = 16;
const maxStopTokenIds = 128;
const maxCacheSalt = 256;

/**
 * Checks a request of `engine.generate`. Every property of the caller's object is read once.
 *
 * @param context - tokens before the prompt, which may then be empty; they are part of the prompt that is returned as ids
 * @throws ERR_ARGUMENT, ERR_TOKEN_ID, ERR_EMPTY_PROMPT, ERR_CONTEXT_LENGTH
 */
export function checkGenerateRequest(
  request: GenerateRequest,
  limits: RequestLimits,
  context?: Int32Array,
): { readonly prompt: string | Int32Array; readonly request: CheckedRequest } {
  checkObject("request", request);
  const { prompt, addSpecialTokens } = request;
  const checked = checkCommon(request, limits);
  return {
    prompt: typeof prompt === "string" ? prompt : checkPrompt(prompt, limits, context),
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

function checkPrompt(
  prompt: unknown,
  { vocabSize, maxModelLen }: RequestLimits,
  context: Int32Array | undefined,
): Int32Array {
  if (!isTokenIdList(prompt)) {
    throw argumentError("prompt", "a string, an array of token ids or an Int32Array", prompt);
  }
  const length = prompt.length;
  checkPromptLength((context?.length ?? 0) + length, maxModelLen);
  return concatenate(context, copyTokenIds("prompt", prompt, length, vocabSize));
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
  const outputs = checkOutputs(request);
  const scheduling = checkScheduling(request);
  const options = readOnce(request);
  const signal = checkSignal("signal", options.signal);
  const maxTokens = options.maxTokens === undefined ? Infinity : checkMaxTokens(options.maxTokens);
  const ignoreEos = optionalBoolean("ignoreEos", options.ignoreEos, false);
  const includeStop = optionalBoolean("includeStop", options.includeStop, false);
  const skipSpecialTokens = optionalBoolean("skipSpecialTokens", options.skipSpecialTokens, true);
  const stop = checkStopTexts(options.stop);
  const stopTokenIds = checkStopTokenIds(options.stopTokenIds, limits.vocabSize);
  const promptLogprobs = checkLogprobs("promptLogprobs", options.promptLogprobs);
  const sampling = checkSampling(request, { ...limits, stopTokenIds, maxTokens });
  const ending = { maxTokens, stop, stopTokenIds, ignoreEos, includeStop };
  return {
    ...sampling,
    outputs,
    ...ending,
    promptLogprobs,
    skipSpecialTokens,
    ...scheduling,
    signal,
  };
}

/** Getters of the caller's object may have side effects, or answer differently the next time. */
function readOnce(request: Omit<GenerateRequest, "prompt" | "addSpecialTokens">) {
  const { maxTokens, stop, stopTokenIds, ignoreEos, includeStop } = request;
  const { promptLogprobs, skipSpecialTokens, signal } = request;
  const ending = { maxTokens, stop, stopTokenIds, ignoreEos, includeStop };
  return { ...ending, promptLogprobs, skipSpecialTokens, signal };
}

/** What the scheduler wants to know of a request. */
function checkScheduling(
  request: Pick<GenerateRequest, "priority" | "deadlineMs" | "cacheSalt">,
): Pick<CheckedRequest, "priority" | "deadlineMs" | "cacheSalt"> {
  const { priority = 0, deadlineMs, cacheSalt } = request;
  const milliseconds = { min: 1, max: 2 ** 31 - 1 };
  return {
    priority: checkInteger("priority", priority, priorityRange),
    deadlineMs:
      deadlineMs === undefined ? undefined : checkNumber("deadlineMs", deadlineMs, milliseconds),
    cacheSalt: checkCacheSalt(cacheSalt),
  };
}

/** @throws ERR_ARGUMENT */
export function checkCacheSalt(cacheSalt: unknown): string | undefined {
  if (cacheSalt === undefined) return undefined;
  if (typeof cacheSalt === "string" && cacheSalt !== "" && cacheSalt.length <= maxCacheSalt) {
    return cacheSalt;
  }
  throw argumentError("cacheSalt", `a string of 1 to ${maxCacheSalt} characters`, cacheSalt);
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
  return new Set(copyTokenIdArray("stopTokenIds", ids, maxStopTokenIds, vocabSize));
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
