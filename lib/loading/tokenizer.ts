import { stat } from "node:fs/promises";
import { join, resolve } from "node:path";
import { argumentError, describe, PagodaError } from "../errors.js";
import { reservedVariables, templateMessages } from "./chat.js";
import type { ChatMessage, ChatRequest, ChatTemplateOptions } from "./chat.js";
import { throwIfAborted } from "./safetensors.js";
import type { StreamOpening, TokenizerFacts } from "./tokenizer-protocol.js";
import type { TokenizerSource } from "./tokenizer-source.js";
import { WorkerClient } from "./worker-client.js";

export interface EncodeOptions {
  /** Adds what the tokenizer's post-processor adds, such as a BOS token. @default true */
  readonly addSpecialTokens?: boolean;
  /** Whether markers such as `<|im_end|>` in the text become special ids. @default true */
  readonly allowSpecialText?: boolean;
}

export interface DecodeOptions {
  /** Leaves special tokens out of the text. @default true */
  readonly skipSpecialTokens?: boolean;
}

/** Tokens of one stream that an engine step produced. */
export interface StreamInput {
  readonly id: number;
  readonly tokens: readonly number[];
  /** Flushes what is held and closes the stream. */
  readonly last: boolean;
}

/** Text of one stream that became complete. */
export interface StreamOutput {
  readonly id: number;
  readonly text: string;
}

/**
 * Text to token ids and back, and chat templates. The work is done in worker threads, so that
 * neither loading nor a long prompt holds the event loop; they keep the process alive only while
 * something is pending. Every promise rejects with a PagodaError, ERR_CLOSED after `close`.
 */
export interface Tokenizer {
  /** One above the largest token id. */
  readonly vocabSize: number;
  readonly bosToken?: string;
  /** From tokenizer_config.json; a model's generation_config.json may name more. */
  readonly eosTokenIds: readonly number[];
  readonly hasChatTemplate: boolean;
  /** @throws ERR_ARGUMENT */
  encode(text: string, options?: EncodeOptions): Promise<Int32Array>;
  /** Ids that have no token give no text. @throws ERR_TOKEN_ID for what is no id at all. */
  decode(ids: ArrayLike<number>, options?: DecodeOptions): Promise<string>;
  /**
   * The bytes that each token stands for in the middle of a text, which may be half a character. Ids that have no token
   * have no bytes. @throws ERR_TOKEN_ID for what is no id at all.
   */
  tokenBytes(ids: ArrayLike<number>): Promise<readonly Uint8Array[]>;
  /**
   * Renders only: encode the result with `addSpecialTokens: false`.
   * @throws ERR_CHAT_TEMPLATE when there is no template, or it is invalid, refuses the messages or
   * takes longer than 2 seconds; ERR_ARGUMENT for messages of the wrong form.
   */
  applyChatTemplate(
    messages: readonly ChatMessage[],
    options?: ChatTemplateOptions,
  ): Promise<string>;
  /**
   * Begins a stream of new tokens that follow `promptIds`. The id is free again after the input
   * that is `last`, or after `closeStream`. @throws ERR_ARGUMENT when it is in use.
   */
  openStream(id: number, promptIds: ArrayLike<number>, options?: DecodeOptions): void;
  /**
   * The text that became complete, one output an input in the same order; never half a character.
   * Together the texts of a stream equal its tokens decoded at once. One message to the worker,
   * whatever the number of streams. @throws ERR_ARGUMENT for an id that is not open.
   */
  feed(batch: readonly StreamInput[]): Promise<readonly StreamOutput[]>;
  /** Forgets a stream; an id that is not open is ignored. */
  closeStream(id: number): void;
  /** Rejects what is pending with ERR_CLOSED and ends the threads. */
  close(): Promise<void>;
}

/** Encoding 35 KB takes about 50 ms; only a pathological pattern or text comes near this. */
const workTimeout = 60_000;
const renderTimeout = 2_000;
/**
 * A thread that reaches the limit of its heap in one large step ends the whole process. So texts
 * are limited, and the heap has room for what the longest text, or one step of a hostile template,
 * can take before it is over or out of time.
 */
const heapLimit = { maxOldGenerationSizeMb: 8192 };
/** Some tokenizers treat a whole text as one word and spread its tokens over the stack. */
const encoderLimits = { ...heapLimit, stackSizeMb: 16 };
/** In UTF-16 units, or token ids: more than any context holds. */
const maxLength = 8 * 2 ** 20;
/** How much of a prompt a stream needs to see, in tokens. */
const promptTail = 32;

/**
 * Loads tokenizer.json, tokenizer_config.json and chat_template.jinja of a model directory, or the
 * tokenizer of a GGUF file; undefined when the directory has no tokenizer.json.
 *
 * @throws ERR_TOKENIZER_INVALID, ERR_ABORTED
 */
export async function loadTokenizer(
  from: TokenizerSource,
  options: { signal?: AbortSignal } = {},
): Promise<Tokenizer | undefined> {
  const { signal } = options;
  throwIfAborted(signal);
  const source = typeof from === "string" ? resolve(from) : from;
  if (!(await hasTokenizer(source))) return undefined;

  const failureCode = "ERR_TOKENIZER_INVALID";
  const limits = { timeoutMilliseconds: workTimeout, failureCode } as const;
  const encoder = new WorkerClient({
    ...limits,
    setup: { role: "encode", source },
    restarts: true,
    resourceLimits: encoderLimits,
  });
  const decoder = new WorkerClient({
    ...limits,
    setup: { role: "decode" },
    restarts: false,
    resourceLimits: heapLimit,
  });
  const abort = () => void closeAll([encoder, decoder], abortError(signal));
  signal?.addEventListener("abort", abort);
  try {
    throwIfAborted(signal);
    decoder.start();
    const { facts, decoding } = await encoder.request("loadEncoder", undefined);
    await decoder.request("loadDecoder", decoding);
    return new WorkerTokenizer(encoder, decoder, facts);
  } catch (error) {
    await closeAll([encoder, decoder], closedError());
    throw error;
  } finally {
    signal?.removeEventListener("abort", abort);
  }
}

/** Whether there is one; it may still prove unusable. */
export async function hasTokenizer(source: TokenizerSource | undefined): Promise<boolean> {
  if (typeof source !== "string") return source !== undefined;
  const found = await stat(join(source, "tokenizer.json")).catch(() => undefined);
  return found !== undefined;
}

class WorkerTokenizer implements Tokenizer {
  readonly vocabSize: number;
  declare readonly bosToken?: string;
  readonly eosTokenIds: readonly number[];
  readonly hasChatTemplate: boolean;
  readonly #facts: TokenizerFacts;
  readonly #encoder: WorkerClient;
  readonly #decoder: WorkerClient;
  readonly #renderer: WorkerClient;
  readonly #openIds = new Set<number>();
  /** Opened since the last feed; the worker does not know them yet. */
  readonly #opening = new Map<number, StreamOpening>();
  /** Closed since the last feed; the worker still knows them. */
  #closing: number[] = [];
  #closed: PagodaError | undefined;

  constructor(encoder: WorkerClient, decoder: WorkerClient, facts: TokenizerFacts) {
    this.vocabSize = facts.vocabSize;
    if (facts.bosToken !== undefined) this.bosToken = facts.bosToken;
    this.eosTokenIds = facts.eosTokenIds;
    this.hasChatTemplate = Object.keys(facts.templates.sources).length > 0;
    this.#facts = facts;
    this.#encoder = encoder;
    this.#decoder = decoder;
    // Its own thread, as the only way to stop a template that does not end is to end its thread:
    // then neither the streams nor the loaded tokenizer are lost with it. It starts in some 50 ms.
    this.#renderer = new WorkerClient({
      setup: { role: "render", templates: facts.templates },
      timeoutMilliseconds: renderTimeout,
      failureCode: "ERR_CHAT_TEMPLATE",
      restarts: true,
      resourceLimits: heapLimit,
    });
  }

  async encode(text: string, options: EncodeOptions = {}): Promise<Int32Array> {
    if (typeof text !== "string" || text.length > maxLength) {
      const received = typeof text === "string" ? `a string of ${text.length}` : text;
      throw argumentError("text", `a string of at most ${maxLength} characters`, received);
    }
    const { addSpecialTokens = true, allowSpecialText = true } = options;
    return this.#encoder.request("encode", { text, addSpecialTokens, allowSpecialText });
  }

  async decode(ids: ArrayLike<number>, options: DecodeOptions = {}): Promise<string> {
    const { skipSpecialTokens = true } = options;
    const checked = Int32Array.from(tokenIds("ids", ids));
    return this.#decoder.request("decode", { ids: checked, skipSpecialTokens }, [checked.buffer]);
  }

  async tokenBytes(ids: ArrayLike<number>): Promise<readonly Uint8Array[]> {
    return this.#decoder.request("bytes", tokenIds("ids", ids));
  }

  async applyChatTemplate(
    messages: readonly ChatMessage[],
    options: ChatTemplateOptions = {},
  ): Promise<string> {
    const { addGenerationPrompt = false, tools = null, kwargs = {} } = options;
    if (!this.hasChatTemplate) {
      throw new PagodaError("ERR_CHAT_TEMPLATE", "The tokenizer has no chat template");
    }
    if (typeof kwargs !== "object" || kwargs === null) {
      throw argumentError("kwargs", "an object", kwargs);
    }
    const reserved = Object.keys(kwargs).find((name) => reservedVariables.has(name));
    if (reserved !== undefined) {
      throw argumentError("kwargs", "no name that belongs to the renderer", reserved);
    }
    const request: ChatRequest = {
      messages: templateMessages(messages, Object.values(this.#facts.templates.sources)),
      addGenerationPrompt,
      tools,
      kwargs,
    };
    return this.#renderer.request("render", toJson(request));
  }

  openStream(id: number, promptIds: ArrayLike<number>, options: DecodeOptions = {}): void {
    if (this.#closed !== undefined) throw this.#closed;
    if (!Number.isSafeInteger(id)) throw argumentError("id", "an integer", id);
    if (this.#openIds.has(id)) throw argumentError("id", "an id that is not open", id);
    const { skipSpecialTokens = true } = options;
    const prompt = tokenIds("promptIds", promptIds, promptTail);
    this.#opening.set(id, { id, prompt, skipSpecialTokens });
    this.#openIds.add(id);
  }

  async feed(batch: readonly StreamInput[]): Promise<readonly StreamOutput[]> {
    if (this.#closed !== undefined) throw this.#closed;
    if (!Array.isArray(batch)) throw argumentError("batch", "a list of stream inputs", batch);
    const checked = batch.map((input: StreamInput) => this.#checkInput(input));
    const open = [...this.#opening.values()];
    const close = this.#closing;
    this.#opening.clear();
    this.#closing = [];
    for (const { id, last } of checked) if (last) this.#openIds.delete(id);
    return this.#decoder.request("feed", { close, open, batch: checked });
  }

  #checkInput(input: StreamInput): StreamInput {
    const id = input?.id;
    if (!this.#openIds.has(id)) throw argumentError("batch.id", "the id of an open stream", id);
    return { id, tokens: tokenIds("batch.tokens", input.tokens), last: input.last === true };
  }

  closeStream(id: number): void {
    if (!this.#openIds.delete(id) || this.#opening.delete(id)) return;
    this.#closing.push(id);
  }

  async close(): Promise<void> {
    this.#closed ??= closedError();
    await closeAll([this.#encoder, this.#decoder, this.#renderer], this.#closed);
  }
}

/** A plain copy of the ids, or of the last `tail` of them: int32 and not negative. */
function tokenIds(name: string, ids: ArrayLike<number>, tail = maxLength): number[] {
  const length = typeof ids === "object" && ids !== null ? ids.length : undefined;
  const isList = Number.isSafeInteger(length) && length! >= 0;
  if (!isList || (tail === maxLength && length! > maxLength)) {
    throw argumentError(name, `a list of at most ${maxLength} token ids`, ids);
  }
  const last: number[] = Array.prototype.slice.call(ids, -tail);
  for (const id of last) {
    if (Number.isInteger(id) && id >= 0 && id < 2 ** 31) continue;
    const message = `Expected token ids for \`${name}\` but received ${describe(id)}`;
    throw new PagodaError("ERR_TOKEN_ID", message, { details: { parameter: name } });
  }
  return last;
}

/** Only data reaches the renderer: no functions, no prototypes, no cycles. */
function toJson(request: ChatRequest): string {
  try {
    return JSON.stringify(request);
  } catch (cause) {
    const expected = `plain data (${(cause as Error).message})`;
    throw argumentError("messages", expected, request.messages);
  }
}

async function closeAll(clients: readonly WorkerClient[], error: PagodaError): Promise<void> {
  await Promise.all(clients.map((client) => client.close(error)));
}

function closedError(): PagodaError {
  return new PagodaError("ERR_CLOSED", "The tokenizer is closed");
}

function abortError(signal: AbortSignal | undefined): PagodaError {
  return new PagodaError("ERR_ABORTED", "Loading was cancelled", { cause: signal?.reason });
}
