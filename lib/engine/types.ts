import type { ModelDtype } from "../graph/choose-dtype.js";
import type { KeptDtype } from "../graph/dtypes.js";
import type { ChatMessage } from "../loading/chat.js";
import type { Tokenizer } from "../loading/tokenizer.js";
import type { DeviceInfo } from "../native.js";
import type { PassedOverDevice } from "./open-device.js";
import type { SamplingOptions, TokenLogprob } from "./sampling-options.js";

export type {
  DryOptions,
  Logprob,
  LogitsProcessor,
  SamplingOptions,
  TokenLogprob,
  XtcOptions,
} from "./sampling-options.js";
import type { EngineEventListener, EngineEvents } from "./events.js";
import type { Session, SessionOptions } from "./session-types.js";

/** How an engine is made. Only `model` is needed. */
export interface EngineOptions {
  /**
   * Path of a Hugging Face model directory (config.json, safetensors, tokenizer.json), or of a `.gguf` file, of a split
   * model the first one.
   */
  readonly model: string;
  /**
   * `auto` takes the first GPU that can be used, else the CPU, and `engine.info.passedOver` says why. A model for which the GPU
   * has too little memory is an error, not a reason to take the CPU.
   * @default "cpu"
   */
  readonly device?: "auto" | "cpu" | `cuda:${number}`;
  /**
   * Type of the weights in memory. `auto` takes bf16 checkpoints as bf16, f16 and quantised tensors as they are, all others as f32.
   *
   * `q8` and `q4` round the matrices to 8 and to 4 bits while they are loaded, with a scale (and, for 4 bits, a minimum)
   * for 32 columns: about 8.5 and 4.7 bits a weight. With `q4`, embeddings and output head have 8 bits. A matrix whose
   * columns 32 does not divide stays bf16; vectors stay f32. Products with them round activations to 8 bits, too.
   * @default "auto"
   */
  readonly dtype?: "auto" | "f32" | "bf16" | "q8" | "q4";
  readonly kvCache?: {
    /** Tokens a block, 1 to 256. @default 16 */
    readonly blockSize?: number;
    /** Blocks of the cache, at least one more than the model has KV groups (mostly one): the null block holds no tokens. @default as many as `memory` holds */
    readonly numBlocks?: number;
    /** Bytes for the cache; unused when `numBlocks` is set. @default enough for `maxSequences` full contexts, but at most a quarter of the available memory */
    readonly memory?: number;
    /**
     * Type of K and V. `int8`, on the CPU, keeps 8-bit codes with a scale for each token and head: 53 % of the memory of bf16
     * for heads of 64 dimensions, with an error of at most 1/254 of the largest element of a head.
     * @default as the weights, bf16 where they are quantised
     */
    readonly dtype?: "auto" | "f32" | "bf16" | "int8";
    /**
     * Whether requests share the blocks of equal beginnings, so that these are computed once; results do not depend on it.
     * @default true
     */
    readonly prefixSharing?: boolean;
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
    /**
     * `priority`: by the requests' `priority`, those of equal priority first come, first served. `fcfs`: ignores it.
     * @default "priority"
     */
    readonly policy?: "fcfs" | "priority";
  };
  /**
   * Prompt and output tokens of one request at most, from 2 on. A KV cache that holds fewer lowers it.
   * Of models with LongRoPE (Phi-3 with 128k tokens) it also chooses the frequencies of all sequences: the short ones up to
   * the context of the pretraining (4,096 there), else the long ones. So give it, if no more than that is needed.
   * @default the model's max_position_embeddings, which it must not exceed
   */
  readonly maxModelLen?: number;
  /**
   * Of models with multi-head latent attention: from how many tokens of one request in a step on its attention takes the
   * expanded form, which needs less work for long chunks (about half for 512 tokens; both are as fast at about 128) and a
   * further weight a layer. 0: never. Only then do outputs not depend on how prompts are cut into steps, to the bit; else they
   * may differ by rounding (docs/kernels/mla.md). GPUs have that form for wide heads (docs/cuda.md).
   * @default 0
   */
  readonly mlaExpandFrom?: number;
  /** CPU workers, 1 to 1024. @default the number of cores */
  readonly threads?: number;
  /**
   * On a GPU, steps in which every request has one token are recorded once for each size of batch and then run by one call (CUDA
   * graphs). True: ops are always queued one by one. Results do not depend on it.
   * @default false
   */
  readonly enforceEager?: boolean;
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

export interface GenerateRequest extends SamplingOptions {
  /** Text (needs a tokenizer) or token ids. */
  readonly prompt: string | readonly number[] | Int32Array;
  /**
   * Outputs of the one prompt, 1 to 128. The prompt is computed once, and its K and V are shared. With a seed, output i is that
   * of a request with the seed `seed + i`.
   * @default 1
   */
  readonly n?: number;
  /**
   * Outputs that are generated, of which the `n` with the highest log-probability a token are returned, the best one first;
   * from n to 128. Their text comes when all have ended.
   * @default n
   */
  readonly bestOf?: number;
  /** Search for the most probable outputs instead of drawing them; nothing else that says how tokens are drawn may be set. */
  readonly beam?: BeamOptions;
  /** Tokens to generate at most, at least 1; the end of the context ends it, too. @default as many as the context holds */
  readonly maxTokens?: number;
  /** Generation ends before any of these texts. At most 16, none empty, without lone surrogates. Needs a tokenizer. */
  readonly stop?: string | readonly string[];
  /** Generation ends at any of these tokens, 128 at most; the token is in `tokenIds`, but not in the text. */
  readonly stopTokenIds?: readonly number[];
  /** Keep the stop text, or the text of the token that ended the generation, in the text. @default false */
  readonly includeStop?: boolean;
  /**
   * Log-probabilities of the prompt's tokens, and of this many most probable ones at each place, 0 to 20. The prompt is then
   * computed once more, before the request is queued.
   * @default none
   */
  readonly promptLogprobs?: number;
  /** Go on after the end-of-sequence token. @default false */
  readonly ignoreEos?: boolean;
  /** Leave special tokens out of the text. @default true */
  readonly skipSpecialTokens?: boolean;
  /** Whether the tokenizer adds its special tokens (BOS) to a text prompt. @default true */
  readonly addSpecialTokens?: boolean;
  /**
   * Smaller is more urgent; an integer in [-2^20, 2^20]. More urgent requests are run first and preempted last. Each level is
   * worth 1024 arrivals, so that no request waits forever.
   * @default 0
   */
  readonly priority?: number;
  /** Milliseconds from the call after which the request ends with what it has, in [1, 2^31 - 1]. @default never */
  readonly deadlineMs?: number;
  /**
   * Only requests with the same salt share cached prefixes, so that one tenant cannot tell from the time to the first token
   * what another one has asked. At most 256 characters.
   * @default none
   */
  readonly cacheSalt?: string;
  readonly signal?: AbortSignal;
}

export interface ChatRequest extends Omit<GenerateRequest, "prompt" | "addSpecialTokens"> {
  readonly messages: readonly ChatMessage[];
}

/**
 * Beam search with the semantics of Hugging Face's `generate`. The `n` best outputs are returned, the best one first; their
 * text comes when the search is over. `stop` texts are not looked for.
 */
export interface BeamOptions {
  /** Beams that are kept in each step, from n to 64. */
  readonly width: number;
  /**
   * An output's score is the sum of its log-probabilities, divided by its number of tokens to this power, in [-10, 10]: above
   * 0 favours long outputs.
   * @default 1
   */
  readonly lengthPenalty?: number;
  /**
   * When `width` outputs have ended: `true` ends the search at once, `false` when no beam would beat them by its score as it
   * is now, "never" when none could by the best score it may yet reach.
   * @default false
   */
  readonly earlyStopping?: boolean | "never";
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

/** A piece of one output. */
export interface Delta {
  /** Which of the `n` outputs, from 0. */
  readonly index: number;
  /** Text that has become complete: never half a character, never a part of a stop text. May be empty. */
  readonly text: string;
  /** Tokens drawn since the last delta. */
  readonly tokenIds: readonly number[];
  /** One a token, when the request asks for them. */
  readonly logprobs?: readonly TokenLogprob[];
  /** Set on the last delta of each output only. */
  readonly finishReason?: FinishReason;
  /** Set on the last delta of all only. */
  readonly usage?: Usage;
}

/**
 * `stop`: an end-of-sequence token, a stop token or a stop text. `length`: maxTokens or the context is used up. `deadline`: the
 * request's `deadlineMs` are over; there may be no tokens, and the prompt's are left out if it was not tokenised yet.
 */
export type FinishReason = "stop" | "length" | "deadline";

/** One output of a request. */
export interface GeneratedOutput {
  readonly text: string;
  /** Generated tokens only; a stop token that ended the generation is the last one. */
  readonly tokenIds: readonly number[];
  /** One a generated token, when the request asks for them. */
  readonly logprobs?: readonly TokenLogprob[];
  readonly finishReason: FinishReason;
  /** What it was ranked by, where `bestOf` is more than `n`, or in a beam search. */
  readonly score?: number;
}

/** All outputs; what is not in `outputs` is that of the first one. */
export interface GenerateResult extends GeneratedOutput {
  /** `n` of them; the best one first where they are ranked. A beam search may find fewer. */
  readonly outputs: readonly GeneratedOutput[];
  readonly promptTokenIds: readonly number[];
  /** One a token of the prompt, when the request asks for them; null for the first one, which nothing comes before. */
  readonly promptLogprobs?: readonly (TokenLogprob | null)[];
  readonly usage: Usage;
}

/**
 * Counts and times of one request. `queueMs + prefillMs` is `ttftMs`, and `ttftMs + decodeMs` is `totalMs`. A request that is
 * preempted waits and is computed again within the phase in which that happens; `queueMs` is the first wait alone.
 */
export interface Usage {
  readonly promptTokens: number;
  /** Prompt tokens that were not computed, as they were in the prefix cache. */
  readonly cachedTokens: number;
  /** Of all outputs, those that `bestOf` dropped included. */
  readonly outputTokens: number;
  /** Milliseconds from the call to the first step that ran it, tokenising included. Without one, to the end. */
  readonly queueMs: number;
  /** Milliseconds from the first step that ran it to the one that drew its first token, that one included. */
  readonly prefillMs: number;
  /** Milliseconds from the first token to the end, which is reached when the last text is out. */
  readonly decodeMs: number;
  /** Milliseconds from the call to the first token. Without one, to the end. */
  readonly ttftMs: number;
  /** Milliseconds from the call to the end. */
  readonly totalMs: number;
}

/** Plain numbers about the engine, at the time of the call. */
export interface EngineStats {
  /** Sequences that are tokenised, queued, or preempted. A request with several outputs or beams has several. */
  readonly waiting: number;
  /** Sequences that hold blocks. */
  readonly running: number;
  /** Usable blocks of the KV cache (the null block excluded). */
  readonly totalBlocks: number;
  /** Blocks that no request holds; they may still be cached. */
  readonly freeBlocks: number;
  /** Blocks whose tokens are in the prefix cache, held by requests or free. */
  readonly cachedBlocks: number;
  /** Blocks that several requests hold. */
  readonly sharedBlocks: number;
  /** Tokens of requests that were looked up in the prefix cache when they started, and how many were found. */
  readonly prefixCache: { readonly queriedTokens: number; readonly hitTokens: number };
  /** Of requests; those of `logits` are not counted. */
  readonly steps: number;
  /** Milliseconds of these steps together. */
  readonly stepMs: number;
  readonly preemptions: number;
  /** Of requests that have drawn a token. */
  readonly promptTokens: number;
  /** Drawn tokens, including the few that are drawn before a stop text is found. */
  readonly outputTokens: number;
  /** Requests that have ended. `abort`: cancelled by their owner or by `close`. `error`: failed in any other way. */
  readonly finished: Readonly<Record<FinishReason | "abort" | "error", number>>;
  /** Sum over the requests that ended with a finish reason; so are the next two. See {@link Usage}. */
  readonly queueMs: number;
  readonly prefillMs: number;
  readonly decodeMs: number;
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
    /** Of the weights in memory; where a file has several types, that of most of them. */
    readonly dtype: ModelDtype | KeptDtype;
    readonly eosTokenIds: readonly number[];
    readonly hasTokenizer: boolean;
    readonly hasChatTemplate: boolean;
    /** SHA-256 in hex that tells it from others, fine-tunes included, by its config and parts of each of its tensors. */
    readonly fingerprint: string;
  };
  readonly device: DeviceInfo;
  /** With `device: "auto"`, the accelerators that were tried first, and why each cannot be used; else empty. */
  readonly passedOver: readonly PassedOverDevice[];
  readonly kvCache: {
    readonly blockSize: number;
    /** The null block included. */
    readonly numBlocks: number;
    readonly dtype: "f32" | "bf16" | "int8";
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
   * A conversation or text that keeps its blocks between turns.
   *
   * @throws ERR_ARGUMENT, ERR_CLOSED
   */
  session(options?: SessionOptions): Session;
  /**
   * Opens a session that was saved with the same model. Its K and V go back into the KV cache where they fit, else they are
   * computed with the next turn. They are shared with other requests of the same `cacheSalt`, so restore only files that you
   * trust.
   *
   * @throws ERR_ARGUMENT, ERR_SESSION_NOT_FOUND, ERR_SESSION_CORRUPT, ERR_SESSION_MISMATCH, ERR_TOKEN_ID, ERR_ABORTED, ERR_CLOSED
   */
  restoreSession(path: string, options?: { readonly signal?: AbortSignal }): Promise<Session>;
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
  /**
   * Calls `listener` at each such event until the signal fires, the returned function is called, or the engine is closed.
   * What it throws does not disturb the engine: its first failure is a process warning with the code PAGODA_LISTENER.
   *
   * @throws ERR_ARGUMENT
   */
  on<K extends keyof EngineEvents>(
    event: K,
    listener: EngineEventListener<K>,
    options?: { readonly signal?: AbortSignal },
  ): () => void;
  /** Forgets all cached prefixes, for example after a change of tenants. Running requests are not affected. */
  resetPrefixCache(): void;
  /** Running requests are cancelled (ERR_CLOSED); when the step under way is over, memory is freed. Idempotent. */
  close(): Promise<void>;
}
