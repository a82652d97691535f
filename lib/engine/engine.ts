import { checkObject, checkSignal } from "../arguments.js";
import { BlockManager, type BlockManagerOptions } from "../cache/block-manager.js";
import { assert, PagodaError } from "../errors.js";
import type { GenerationDefaults } from "../loading/generation-config.js";
import type { Tokenizer } from "../loading/tokenizer.js";
import { hasControlTexts, resolveTexts } from "../sampling/check-sampling.js";
import { samplingDefaults, type SamplingParams } from "../sampling/sampling-params.js";
import { Batch } from "../scheduler/batch.js";
import {
  Scheduler,
  type DrawnToken,
  type ScheduledStep,
  type SchedulerOptions,
} from "../scheduler/scheduler.js";
import { Sequence } from "../scheduler/sequence.js";
import { Detokenizer, type Emission } from "./detokenize.js";
import { engineFailure, missingTokenizer, queueFull } from "./engine-errors.js";
import type { Executor } from "./executor.js";
import type { EngineEventListener, EngineEvents } from "./events.js";
import { LiveRequest, type Outcome } from "./live-request.js";
import { LogitsQueue } from "./logits.js";
import { executeStep } from "./logits-processor.js";
import { Monitor } from "./monitor.js";
import {
  checkChatRequest,
  checkGenerateRequest,
  checkLogitsIds,
  checkPromptLength,
  checkVocabulary,
  type CheckedRequest,
  type RequestLimits,
} from "./request.js";
import { drawnLogprobs } from "./token-logprobs.js";
import type {
  ChatRequest,
  Engine,
  EngineInfo,
  EngineStats,
  GenerateRequest,
  Generation,
  TokenLogprob,
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
  /** By request id, which is its sequence's id, too. */
  readonly #live: Map<number, LiveRequest> = new Map();
  readonly #counts = { requests: 0, promptTokens: 0, outputTokens: 0 };
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
    this.#limits = {
      vocabSize: limits.vocabSize,
      maxModelLen: info.model.maxModelLen,
      eosTokenIds: new Set(info.model.eosTokenIds),
      sampling: samplingDefaults(generation),
    };
    this.#maxLive = scheduler.maxSequences + scheduler.maxQueue;
  }

  generate(request: GenerateRequest): Generation {
    this.#checkUsable();
    const { prompt, request: checked } = checkGenerateRequest(request, this.#limits);
    this.#checkTexts(checked);
    if (typeof prompt !== "string") return this.#start(checked, prompt);
    const tokenizer = this.#requireTokenizer("a text prompt");
    const { addSpecialTokens } = checked;
    return this.#start(checked, () => tokenizer.encode(prompt, { addSpecialTokens }));
  }

  chat(request: ChatRequest): Generation {
    this.#checkUsable();
    const { messages, request: checked } = checkChatRequest(request, this.#limits);
    const tokenizer = this.#requireTokenizer("chat");
    return this.#start(checked, async () => {
      const text = await tokenizer.applyChatTemplate(messages, { addGenerationPrompt: true });
      return tokenizer.encode(text, { addSpecialTokens: false });
    });
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
    const { numRunning, numPreemptions } = this.#scheduler;
    const { promptTokens, outputTokens } = this.#counts;
    let waiting = 0;
    for (const { sequence } of this.#live.values()) {
      if (sequence === undefined || sequence.status === "waiting") waiting++;
    }
    return {
      waiting,
      running: numRunning,
      totalBlocks: this.#blocks.numUsableBlocks,
      freeBlocks: this.#blocks.numFreeBlocks,
      cachedBlocks: this.#blocks.numCachedBlocks,
      sharedBlocks: this.#blocks.numSharedBlocks,
      prefixCache: this.#blocks.prefixStatistics,
      preemptions: numPreemptions,
      promptTokens,
      outputTokens,
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
    const { numPreemptions } = this.#scheduler;
    const step = this.#scheduler.schedule(!this.#logits.needsBlocks);
    if (step === undefined) return false;
    const started = this.#markStarted(step);
    const startedAt = performance.now();
    const result = executeStep(
      this.#executor,
      step,
      this.#batch.pack(step),
      ({ id }, error) => void this.#live.get(id)?.fail(error),
    );
    // Listeners run beside the step, not before it.
    if (this.#scheduler.numPreemptions > numPreemptions) this.#tellPreemptions();
    for (const request of started) this.#monitor.started(request);
    const output = await result;
    const durationMs = performance.now() - startedAt;
    const logprobs = drawnLogprobs(step, output);
    this.#emit(this.#scheduler.commit(step, output), logprobs);
    this.#monitor.stepped(step, durationMs, this.#blocks.numFreeBlocks);
    this.#monitor.tellCacheChanges();
    return true;
  }

  /** Requests that the step runs for the first time. */
  #markStarted({ sequences }: ScheduledStep): LiveRequest[] {
    return sequences
      .map(({ sequence }) => this.#live.get(sequence.id)!)
      .filter((request) => request.start());
  }

  #tellPreemptions(): void {
    for (const request of [...this.#live.values()]) {
      if (request.takePreemption()) this.#monitor.preempted(request);
    }
  }

  get #hasWork(): boolean {
    return this.#scheduler.numRunning + this.#scheduler.numWaiting > 0 || !this.#logits.isEmpty;
  }

  #emit(drawn: readonly DrawnToken[], logprobs: ReadonlyMap<Sequence, TokenLogprob>): void {
    const emissions: Emission[] = [];
    for (const { sequence, token, finishReason } of drawn) {
      const request = this.#live.get(sequence.id)!;
      if (sequence.numOutputTokens === 1) this.#counts.promptTokens += sequence.promptLength;
      if (finishReason !== "error") this.#counts.outputTokens++;
      request.markDrawn();
      const logprob = logprobs.get(sequence);
      emissions.push({ request, token, finishReason, logprob });
    }
    this.#detokenizer.emit(emissions);
  }

  // ---- the life of a request ----

  #start(checked: CheckedRequest, prompt: PromptSource): Generation {
    if (this.#live.size >= this.#maxLive) throw queueFull(this.#maxLive);
    const request = new LiveRequest(this.#counts.requests++, checked, this.#onEnd);
    if (request.isDone) return request.generation; // its signal was aborted already
    this.#live.set(request.id, request);
    this.#monitor.queued(request);
    void this.#begin(request, prompt);
    return request.generation;
  }

  /** Queues ids at once, text when it is tokenised. Never rejects: what is wrong is the generation's error. */
  async #begin(request: LiveRequest, prompt: PromptSource): Promise<void> {
    try {
      const ids = prompt instanceof Int32Array ? prompt : await this.#encode(prompt);
      const sampling = hasControlTexts(request.request)
        ? await this.#resolveTexts(request.request)
        : request.request.sampling;
      if (request.request.promptLogprobs !== undefined) await this.#scorePrompt(request, ids);
      if (!request.isDone) this.#enqueue(request, ids, sampling);
    } catch (error) {
      request.fail(error);
    }
  }

  async #encode(encode: () => Promise<Int32Array>): Promise<Int32Array> {
    const ids = await encode();
    checkPromptLength(ids.length, this.#limits.maxModelLen);
    checkVocabulary(ids, this.#limits.vocabSize);
    return ids;
  }

  async #resolveTexts(checked: CheckedRequest): Promise<SamplingParams> {
    const { tokenizer } = this;
    if (tokenizer === undefined) return checked.sampling; // without the default sequence breakers
    const { vocabSize } = this.#limits;
    return resolveTexts(checked, (text, options) => tokenizer.encode(text, options), vocabSize);
  }

  /** Computes the prompt once, for the log-probabilities of its tokens alone. */
  async #scorePrompt(live: LiveRequest, ids: Int32Array): Promise<void> {
    if (live.isDone) return;
    const { promptLogprobs = 0 } = live.request;
    live.scoring = new AbortController();
    const scores = this.#logits.score(ids, promptLogprobs, live.scoring.signal);
    this.#wake();
    live.promptLogprobs = await scores;
    live.scoring = undefined;
  }

  #enqueue(live: LiveRequest, promptTokenIds: Int32Array, sampling: SamplingParams): void {
    const { request } = live;
    const room = this.#limits.maxModelLen - promptTokenIds.length;
    const stop = {
      eosTokenIds: request.ignoreEos ? noTokens : this.#limits.eosTokenIds,
      stopTokenIds: request.stopTokenIds,
      maxTokens: Math.min(request.maxTokens, room),
    };
    const { priority, cacheSalt } = request;
    const how = { stop, sampling, priority, cacheSalt };
    live.sequence = new Sequence({ id: live.id, promptTokenIds, ...how });
    this.#detokenizer.open(live, promptTokenIds);
    this.#scheduler.add(live.sequence);
    this.#wake();
  }

  readonly #onEnd = (request: LiveRequest, outcome: Outcome): void => {
    if (!this.#live.delete(request.id)) return; // its signal was aborted already
    if (request.sequence !== undefined) {
      this.#scheduler.abort(request.sequence);
      this.#detokenizer.close(request);
    }
    this.#monitor.finished(request, outcome);
  };

  // ---- the end of the engine ----

  /** Text of steps that succeeded is delivered first: a stop text in it may have ended a request. */
  async #fail(cause: unknown): Promise<void> {
    const error = engineFailure(cause);
    this.#stopped ??= error;
    await this.#detokenizer.drain();
    this.#logits.failAll(error);
    for (const request of [...this.#live.values()]) request.fail(error);
  }

  async #close(): Promise<void> {
    const closed = new PagodaError("ERR_CLOSED", "The engine is closed");
    this.#stopped = closed;
    this.#logits.failAll(closed);
    for (const request of [...this.#live.values()]) request.fail(closed, true);
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

  #checkTexts({ stop, controlTexts }: CheckedRequest): void {
    if (stop.length > 0) this.#requireTokenizer("stop texts");
    if (controlTexts.needTokenizer) this.#requireTokenizer("bad words and sequence breakers");
  }

  #requireTokenizer(purpose: string): Tokenizer {
    if (this.tokenizer !== undefined) return this.tokenizer;
    throw missingTokenizer(purpose);
  }
}

/** Checked ids, or what makes them from text. */
type PromptSource = Int32Array | (() => Promise<Int32Array>);

const noTokens: ReadonlySet<number> = new Set();

/** Resolves after the event loop has turned once. */
function eventLoopTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
