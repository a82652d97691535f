import { checkObject, checkSignal } from "../arguments.js";
import { BlockManager, type BlockManagerOptions } from "../cache/block-manager.js";
import { assert, PagodaError } from "../errors.js";
import type { GenerationDefaults } from "../loading/generation-config.js";
import type { Tokenizer } from "../loading/tokenizer.js";
import { samplingDefaults } from "../sampling/sampling-params.js";
import { Batch } from "../scheduler/batch.js";
import { Scheduler, type SchedulerOptions } from "../scheduler/scheduler.js";
import { Detokenizer } from "./detokenize.js";
import { engineFailure, queueFull } from "./engine-errors.js";
import type { Executor } from "./executor.js";
import type { EngineEventListener, EngineEvents } from "./events.js";
import { Intake, type PromptSource } from "./intake.js";
import type { LiveRequest, OnSettled } from "./live-request.js";
import { LogitsQueue } from "./logits.js";
import { executeStep } from "./logits-processor.js";
import { Monitor } from "./monitor.js";
import {
  checkChatRequest,
  checkGenerateRequest,
  checkLogitsIds,
  type CheckedRequest,
  type RequestLimits,
} from "./request.js";
import { Requests } from "./requests.js";
import { SessionBlocks } from "./session-blocks.js";
import type { SessionHost } from "./session.js";
import type { Session, SessionOptions } from "./session-types.js";
import { beginSession, restoreSession, saveSession, type SessionStore } from "./sessions.js";
import { concatenate } from "./token-ids.js";
import { drawnLogprobs } from "./token-logprobs.js";
import type {
  ChatRequest,
  Engine,
  EngineInfo,
  EngineStats,
  GenerateRequest,
  Generation,
} from "./types.js";

/** What an engine is made of. It owns executor and tokenizer, and closes them. */
export interface EngineParts {
  readonly executor: Executor;
  readonly tokenizer: Tokenizer | undefined;
  /** `model.maxModelLen` tokens must fit the KV cache. */
  readonly info: EngineInfo;
  readonly generation: GenerationDefaults;
  /** Within the executor's limits. */
  readonly scheduler: SchedulerOptions & { readonly maxQueue: number };
  readonly kvCache?: Pick<BlockManagerOptions, "prefixSharing" | "hashSeed">;
}

/** The engine over any executor: one loop that runs while there is work. */
export class LlmEngine implements Engine {
  readonly info: EngineInfo;
  readonly tokenizer: Tokenizer | undefined;
  readonly #executor: Executor;
  readonly #blocks: BlockManager;
  readonly #scheduler: Scheduler;
  readonly #batch: Batch;
  readonly #logits: LogitsQueue;
  readonly #detokenizer: Detokenizer;
  readonly #monitor: Monitor;
  readonly #limits: RequestLimits;
  /** Requests that have not ended at most. */
  readonly #maxLive: number;
  readonly #intake: Intake;
  readonly #requests: Requests;
  readonly #sessionStore: SessionStore;
  readonly #sessionHost: SessionHost;
  /** Set while there is work. */
  #loop: Promise<void> | undefined;
  /** Why the engine takes no more work: it failed, or was closed. */
  #stopped: PagodaError | undefined;
  #closing: Promise<void> | undefined;

  constructor({ executor, tokenizer, info, generation, scheduler, kvCache }: EngineParts) {
    const { limits } = executor;
    assert(scheduler.maxBatchTokens <= limits.maxTokens, "the executor takes a full batch");
    assert(
      scheduler.maxSequences <= Math.min(limits.maxRequests, limits.maxOutputs),
      "the executor takes as many sequences as may run",
    );
    this.info = info;
    this.tokenizer = tokenizer;
    this.#executor = executor;
    this.#monitor = new Monitor(info.model.name);
    const onEvent = this.#monitor.cacheChanged;
    this.#blocks = new BlockManager({ ...limits, ...kvCache, onEvent });
    this.#scheduler = new Scheduler(this.#blocks, scheduler);
    this.#batch = new Batch(this.#blocks);
    this.#logits = new LogitsQueue(executor, this.#blocks);
    this.#detokenizer = new Detokenizer(tokenizer);
    this.#requests = new Requests(this.#scheduler, this.#detokenizer, this.#monitor);
    this.#limits = {
      vocabSize: limits.vocabSize,
      maxModelLen: info.model.maxModelLen,
      eosTokenIds: new Set(info.model.eosTokenIds),
      sampling: samplingDefaults(generation),
    };
    this.#intake = new Intake(tokenizer, this.#limits, (...job) => this.#score(...job));
    this.#maxLive = scheduler.maxSequences + scheduler.maxQueue;
    const blocks = new SessionBlocks(this.#blocks, executor);
    this.#sessionStore = { blocks, executor, fingerprint: info.model.fingerprint };
    this.#sessionHost = this.#hostSessions(blocks);
  }

  generate(request: GenerateRequest): Generation {
    return this.#generate(request, undefined);
  }

  chat(request: ChatRequest): Generation {
    return this.#chat(request);
  }

  session(options: SessionOptions = {}): Session {
    this.#checkUsable();
    return beginSession(this.#sessionHost, options);
  }

  async restoreSession(path: string, options: { signal?: AbortSignal } = {}): Promise<Session> {
    this.#checkUsable();
    return restoreSession(this.#sessionHost, this.#sessionStore, path, options);
  }

  async logits(
    ids: readonly number[] | Int32Array,
    options: { signal?: AbortSignal } = {},
  ): Promise<Float32Array> {
    this.#checkUsable();
    checkObject("options", options);
    const signal = checkSignal("signal", options.signal);
    const { vocabSize, maxModelLen } = this.#limits;
    const result = this.#logits.submit(checkLogitsIds(ids, vocabSize, maxModelLen), signal);
    this.#wake();
    return result;
  }

  stats(): EngineStats {
    const { numRunning, numWaiting, numPreemptions } = this.#scheduler;
    return {
      waiting: numWaiting + this.#requests.numBeginning,
      running: numRunning,
      totalBlocks: this.#blocks.numUsableBlocks,
      freeBlocks: this.#blocks.numFreeBlocks,
      cachedBlocks: this.#blocks.numCachedBlocks,
      sharedBlocks: this.#blocks.numSharedBlocks,
      prefixCache: this.#blocks.prefixStatistics,
      preemptions: numPreemptions,
      ...this.#requests.counts,
      ...this.#monitor.stats(),
    };
  }

  resetPrefixCache(): void {
    this.#blocks.resetPrefixCache();
    this.#monitor.tellCacheChanges();
  }

  on<K extends keyof EngineEvents>(
    event: K,
    listener: EngineEventListener<K>,
    options?: { readonly signal?: AbortSignal },
  ): () => void {
    return this.#monitor.events.on(event, listener, options);
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  // ---- the loop ----

  /** Starts the loop unless it runs. Requests made in the same tick are in its first step together. */
  #wake(): void {
    this.#loop ??= Promise.resolve().then(() => this.#run());
  }

  /** Runs steps while there is work. Never rejects. */
  async #run(): Promise<void> {
    try {
      while (this.#stopped === undefined && this.#hasWork) {
        const turn = eventLoopTurn();
        const hasStepped = await this.#step();
        const hasScored = await this.#logits.step();
        this.#monitor.tellCacheChanges(); // of blocks that were taken for logits
        assert(hasStepped || hasScored || !this.#hasWork, "work that is left can be run");
        await this.#detokenizer.ready();
        await turn; // resolved by now, unless the executor did not leave the event loop free
      }
    } catch (error) {
      await this.#fail(error);
    } finally {
      if (this.#stopped !== undefined) this.#release();
      this.#loop = undefined;
    }
  }

  /** One step of the running sequences, if any: schedule, execute, commit. */
  async #step(): Promise<boolean> {
    const step = this.#scheduler.schedule(!this.#logits.needsBlocks);
    if (step === undefined) return false;
    const started = this.#requests.start(step);
    const startedAt = performance.now();
    const result = executeStep(this.#executor, step, this.#batch.pack(step), (sequence, error) =>
      this.#requests.fail(sequence, error),
    );
    // Listeners run beside the step, not before it.
    this.#requests.tellPreemptions();
    for (const request of started) this.#monitor.started(request);
    const output = await result;
    const durationMs = performance.now() - startedAt;
    const logprobs = drawnLogprobs(step, output);
    this.#requests.emit(this.#scheduler.commit(step, output), logprobs);
    this.#monitor.stepped(step, durationMs, this.#blocks.numFreeBlocks);
    this.#monitor.tellCacheChanges();
    return true;
  }

  get #hasWork(): boolean {
    return this.#scheduler.numRunning + this.#scheduler.numWaiting > 0 || !this.#logits.isEmpty;
  }

  // ---- the life of a request ----

  /** @param context - tokens before the prompt, which may then be empty */
  #generate(
    request: GenerateRequest,
    context: Int32Array | undefined,
    onSettled?: OnSettled,
  ): Generation {
    this.#checkUsable();
    const { prompt, request: checked } = checkGenerateRequest(request, this.#limits, context);
    this.#intake.checkTexts(checked);
    if (typeof prompt !== "string") return this.#start(checked, prompt, onSettled);
    const tokenizer = this.#intake.requireTokenizer("a text prompt");
    const { addSpecialTokens } = checked;
    const source = async () =>
      concatenate(context, await tokenizer.encode(prompt, { addSpecialTokens }));
    return this.#start(checked, source, onSettled);
  }

  #chat(request: ChatRequest, onSettled?: OnSettled): Generation {
    this.#checkUsable();
    const { messages, request: checked } = checkChatRequest(request, this.#limits);
    const tokenizer = this.#intake.requireTokenizer("chat");
    const source = async () => {
      const text = await tokenizer.applyChatTemplate(messages, { addGenerationPrompt: true });
      return tokenizer.encode(text, { addSpecialTokens: false });
    };
    return this.#start(checked, source, onSettled);
  }

  #hostSessions(blocks: SessionBlocks): SessionHost {
    return {
      blocks,
      chat: (request, onSettled) => this.#chat(request, onSettled),
      generate: (request, context, onSettled) => this.#generate(request, context, onSettled),
      save: (...session) => saveSession(this.#sessionStore, ...session),
      checkUsable: () => this.#checkUsable(),
    };
  }

  #start(checked: CheckedRequest, prompt: PromptSource, onSettled?: OnSettled): Generation {
    if (this.#requests.size >= this.#maxLive) throw queueFull(this.#maxLive);
    const request = this.#requests.add(checked, onSettled);
    if (!request.isDone) void this.#begin(request, prompt);
    return request.generation;
  }

  /** Queues ids at once, text when it is tokenised. Never rejects: what is wrong is the generation's error. */
  async #begin(request: LiveRequest, prompt: PromptSource): Promise<void> {
    try {
      const admission = await this.#intake.admit(request, prompt);
      if (request.isDone) return;
      this.#requests.begin(request, admission);
      this.#wake();
    } catch (error) {
      request.fail(error);
    }
  }

  #score(...job: Parameters<LogitsQueue["score"]>): ReturnType<LogitsQueue["score"]> {
    const scores = this.#logits.score(...job);
    this.#wake();
    return scores;
  }

  // ---- the end of the engine ----

  /** Text of steps that succeeded is delivered first: a stop text in it may have ended a request. */
  async #fail(cause: unknown): Promise<void> {
    const error = engineFailure(cause);
    this.#stopped ??= error;
    await this.#detokenizer.drain();
    this.#logits.failAll(error);
    this.#requests.failAll(error);
  }

  async #close(): Promise<void> {
    const closed = new PagodaError("ERR_CLOSED", "The engine is closed");
    this.#stopped = closed;
    this.#logits.failAll(closed);
    this.#requests.failAll(closed, true);
    try {
      await Promise.all([this.#loop, this.tokenizer?.close()]);
    } finally {
      await this.#loop;
      this.#release();
      this.#monitor.events.close();
      await this.#executor.close();
    }
  }

  /** Takes all blocks back. No step may be running. */
  #release(): void {
    this.#scheduler.abortAll();
    this.#logits.release();
  }

  #checkUsable(): void {
    if (this.#stopped === undefined) return;
    const { code, message, details } = this.#stopped;
    throw new PagodaError(code, message, { details: { ...details }, cause: this.#stopped });
  }
}

/** Resolves after the event loop has turned once. */
function eventLoopTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
