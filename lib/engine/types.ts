import type { ChatMessage } from "../loading/chat.js";
import type { Tokenizer } from "../loading/tokenizer.js";
import type { DeviceInfo } from "../native.js";

/** How an engine is made. Only `model` is needed. */
export interface EngineOptions {
  /** Path of a Hugging Face model directory: config.json, safetensors, tokenizer.json. */
  readonly model: string;
  /** @default "cpu" */
  readonly device?: "auto" | "cpu" | `cuda:${number}`;
  /**
   * Type of the weights in memory. `auto` takes bf16 checkpoints as bf16 and all others as f32.
   * @default "auto"
   */
  readonly dtype?: "auto" | "f32" | "bf16";
  readonly kvCache?: {
    /** Tokens a block, 1 to 256. @default 16 */
    readonly blockSize?: number;
    /** Blocks of the cache, at least 2; one of them, the null block, holds no tokens. @default as many as `memory` holds */
    readonly numBlocks?: number;
    /** Bytes for the cache; unused when `numBlocks` is set. @default enough for `maxSequences` full contexts, but at most a quarter of the available memory */
    readonly memory?: number;
    /** @default as the weights */
    readonly dtype?: "auto" | "f32" | "bf16";
  };
  readonly scheduler?: {
    /** Tokens run in one step at most (the token budget). @default 2048 */
    readonly maxBatchTokens?: number;
    /** Requests run in one step at most. @default 64 */
    readonly maxSequences?: number;
    /** Requests accepted beyond `maxSequences` at most; further ones fail with ERR_QUEUE_FULL. @default 1024 */
    readonly maxQueue?: number;
    /** Tokens of one prompt run in one step at most. @default maxBatchTokens */
    readonly maxChunkTokens?: number;
  };
  /**
   * Prompt and output tokens of one request at most, from 2 on. A KV cache that holds fewer lowers it.
   * @default the model's max_position_embeddings, which it must not exceed
   */
  readonly maxModelLen?: number;
  /** CPU workers, 1 to 1024. @default the number of cores */
  readonly threads?: number;
  /** Cancels loading. */
  readonly signal?: AbortSignal;
  /** Called while loading, at each new phase and else about 30 times a second at most. What it throws ends the loading. */
  readonly onProgress?: (progress: LoadProgress) => void;
}

/** Where loading stands. */
export interface LoadProgress {
  readonly phase: "open" | "weights" | "ready";
  /** Bytes of weights done. */
  readonly loaded: number;
  /** Bytes of weights in all. */
  readonly total: number;
}

/** How tokens are drawn. Unset fields take the model's generation_config.json, then the defaults named here. */
export interface SamplingOptions {
  /** 0 is greedy; at most 100. @default 1 */
  readonly temperature?: number;
  /** Keep the k most probable tokens, at most 2^31 - 1; 0 keeps all. @default 0 */
  readonly topK?: number;
  /** Keep the smallest set of most probable tokens whose sum reaches topP, in (0, 1]. @default 1 */
  readonly topP?: number;
  /** Drop tokens less probable than minP times the most probable one, in [0, 1]. @default 0 */
  readonly minP?: number;
  /** Integer in [0, 2^53 - 1]. The same request with the same seed gives the same tokens in any batch. @default random */
  readonly seed?: number;
}

export interface GenerateRequest extends SamplingOptions {
  /** Text (needs a tokenizer) or token ids. */
  readonly prompt: string | readonly number[] | Int32Array;
  /** Tokens to generate at most, at least 1; the end of the context ends it, too. @default as many as the context holds */
  readonly maxTokens?: number;
  /** Generation ends before any of these texts. At most 16, none empty, without lone surrogates. Needs a tokenizer. */
  readonly stop?: string | readonly string[];
  /** Generation ends at any of these tokens, 128 at most; the token is in `tokenIds`, but not in the text. */
  readonly stopTokenIds?: readonly number[];
  /** Go on after the end-of-sequence token. @default false */
  readonly ignoreEos?: boolean;
  /** Leave special tokens out of the text. @default true */
  readonly skipSpecialTokens?: boolean;
  /** Whether the tokenizer adds its special tokens (BOS) to a text prompt. @default true */
  readonly addSpecialTokens?: boolean;
  readonly signal?: AbortSignal;
}

export interface ChatRequest extends Omit<GenerateRequest, "prompt" | "addSpecialTokens"> {
  readonly messages: readonly ChatMessage[];
}

/**
 * One running request. Iterate it, or await it, or both. Leaving the loop cancels it and gives its blocks back.
 *
 * It can be iterated once. Deltas that are not read in time are joined, so a slow reader gets fewer, larger ones.
 *
 * A failure that nobody awaits or iterates is an unhandled rejection, unless it is the owner's wish: cancel(), the signal,
 * leaving the loop, closing the engine.
 *
 * It is thenable: returning it from an `async` function awaits the whole result; hand it on inside an object.
 */
export interface Generation
  extends AsyncIterable<Delta>, PromiseLike<GenerateResult>, AsyncDisposable {
  /** Unique in the process. */
  readonly id: string;
  readonly state: "queued" | "running" | "done";
  /** Ends the request; the result rejects with ERR_ABORTED. Nothing happens when it has already ended. */
  cancel(reason?: unknown): void;
}

/** A piece of output. */
export interface Delta {
  /** Text that has become complete: never half a character, never a part of a stop text. May be empty. */
  readonly text: string;
  /** Tokens drawn since the last delta. */
  readonly tokenIds: readonly number[];
  /** Set on the last delta only. */
  readonly finishReason?: FinishReason;
  /** Set on the last delta only. */
  readonly usage?: Usage;
}

/** `stop`: an end-of-sequence token, a stop token or a stop text. `length`: maxTokens or the context is used up. */
export type FinishReason = "stop" | "length";

export interface GenerateResult {
  readonly text: string;
  /** Generated tokens only; a stop token that ended the generation is the last one. */
  readonly tokenIds: readonly number[];
  readonly promptTokenIds: readonly number[];
  readonly finishReason: FinishReason;
  readonly usage: Usage;
}

/** Counts and times of one request. */
export interface Usage {
  readonly promptTokens: number;
  readonly outputTokens: number;
  /** Milliseconds from the call to the first step that ran it. */
  readonly queueMs: number;
  /** Milliseconds from the call to the first token. */
  readonly ttftMs: number;
  /** Milliseconds from the call to the end. */
  readonly totalMs: number;
}

/** Plain numbers about the engine, at the time of the call. */
export interface EngineStats {
  /** Requests that are tokenised, queued, or preempted. */
  readonly waiting: number;
  /** Requests that hold blocks. */
  readonly running: number;
  /** Usable blocks of the KV cache (the null block excluded). */
  readonly totalBlocks: number;
  readonly freeBlocks: number;
  /** Of requests; those of `logits` are not counted. */
  readonly steps: number;
  readonly preemptions: number;
  /** Of requests that have drawn a token. */
  readonly promptTokens: number;
  /** Drawn tokens, including the few that are drawn before a stop text is found. */
  readonly outputTokens: number;
}

/** What was loaded. */
export interface EngineInfo {
  readonly model: {
    /** Name of the directory. */
    readonly name: string;
    readonly architecture: string;
    readonly parameters: number;
    readonly vocabSize: number;
    /** Prompt and output tokens of one request at most. */
    readonly maxModelLen: number;
    readonly dtype: "f32" | "bf16";
    readonly eosTokenIds: readonly number[];
    readonly hasTokenizer: boolean;
    readonly hasChatTemplate: boolean;
  };
  readonly device: DeviceInfo;
  readonly kvCache: {
    readonly blockSize: number;
    /** The null block included. */
    readonly numBlocks: number;
    readonly dtype: "f32" | "bf16";
    /** Bytes. */
    readonly memory: number;
  };
  /** Bytes of packed weights. */
  readonly weightMemory: number;
  /** Milliseconds that loading took. */
  readonly loadMs: number;
}

/** A loaded model that serves many requests at once. */
export interface Engine extends AsyncDisposable {
  readonly info: EngineInfo;
  /** Undefined when the directory has none; prompts must then be token ids. */
  readonly tokenizer: Tokenizer | undefined;
  /**
   * Queues a request and returns at once; it is batched with all others. Arguments are checked before it returns; a bad one
   * throws ERR_ARGUMENT, ERR_TOKEN_ID, ERR_EMPTY_PROMPT, ERR_CONTEXT_LENGTH, ERR_TOKENIZER_MISSING, ERR_QUEUE_FULL or
   * ERR_CLOSED. What can be known only after tokenising is reported by the generation.
   */
  generate(request: GenerateRequest): Generation;
  /** As {@link Engine.generate}, with the model's chat template. */
  chat(request: ChatRequest): Generation;
  /**
   * Teacher-forced logits of every position, float32 [ids.length, vocabSize]: row t is the distribution of token t + 1.
   * Runs between steps of other requests, in chunks; needs KV blocks for all ids at once.
   *
   * @throws ERR_ARGUMENT, ERR_TOKEN_ID, ERR_EMPTY_PROMPT, ERR_CONTEXT_LENGTH, ERR_MEMORY, ERR_ABORTED, ERR_CLOSED
   */
  logits(
    ids: readonly number[] | Int32Array,
    options?: { signal?: AbortSignal },
  ): Promise<Float32Array>;
  stats(): EngineStats;
  /** Running requests are cancelled (ERR_CLOSED); when the step under way is over, memory is freed. Idempotent. */
  close(): Promise<void>;
}
