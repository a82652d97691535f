import { checkObject, checkSignal } from "../arguments.js";
import { BlockManager, type BlockManagerOptions } from "../cache/block-manager.js";
import { assert, PagodaError } from "../errors.js";
import type { GenerationDefaults } from "../loading/generation-config.js";
import type { Tokenizer } from "../loading/tokenizer.js";
import { samplingDefaults } from "../sampling/sampling-params.js";
import { Batch } from "../scheduler/batch.js";
import {
  Scheduler,
  type DrawnToken,
  type ScheduledStep,
  type SchedulerOptions,
} from "../scheduler/scheduler.js";
import type { Sequence } from "../scheduler/sequence.js";
import { beginRequest } from "./begin-request.js";
import type { Brancher } from "./brancher.js";
import { Detokenizer, type Emission } from "./detokenize.js";
import { engineFailure, nonFinite, queueFull } from "./engine-errors.js";
import type { Executor } from "./executor.js";
import type { EngineEventListener, EngineEvents } from "./events.js";
import { Intake, type Admission, type PromptSource } from "./intake.js";
import type { LiveOutput } from "./live-output.js";
import { LiveRequest, type Outcome, type RequestOwner } from "./live-request.js";
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
  readonly kvCache?: Pick<BlockManagerOptions, "prefixSharing" | "slidingWindow" | "hashSeed">;
}

/** The engine over any executor: one loop that runs while there is work. */
export class LlmEngine implements Engine, RequestOwner {
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
  readonly #live: Set<LiveRequest> = new Set();
  readonly #requestOf: WeakMap<Sequence, LiveRequest> = new WeakMap();
  readonly #counts = { promptTokens: 0, outputTokens: 0 };
  /** Of sequences, and of streams of text. */
  #nextId = 0;
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
    this.#intake = new Intake(tokenizer, this.#limits, (...job) => this.#score(...job));
    this.#maxLive = scheduler.maxSequences + scheduler.maxQueue;
  }

  generate(request: GenerateRequest): Generation {
    this.#checkUsable();
    const { prompt, request: checked } = checkGenerateRequest(request, this.#limits);
    this.#intake.checkTexts(checked);
    if (typeof prompt !== "string") return this.#start(checked, prompt);
    const tokenizer = this.#intake.requireTokenizer("a text prompt");
    const { addSpecialTokens } = checked;
    return this.#start(checked, () => tokenizer.encode(prompt, { addSpecialTokens }));
  }

  chat(request: ChatRequest): Generation {
    this.#checkUsable();
    const { messages, request: checked } = checkChatRequest(request, this.#limits);
    const tokenizer = this.#intake.requireTokenizer("chat");
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
    let waiting = this.#scheduler.numWaiting;
    for (const { sequences } of this.#live) if (sequences.size === 0) waiting++;
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
    const step = this.#scheduler.schedule(!this.#logits.needsBlocks);
    if (step === undefined) return false;
    const started = this.#markStarted(step);
    const startedAt = performance.now();
    const result = executeStep(this.#executor, step, this.#batch.pack(step), (sequence, error) =>
      this.#requestOf.get(sequence)!.fail(error),
    );
    // Listeners run beside the step, not before it.
    this.#tellPreemptions();
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
    const started: LiveRequest[] = [];
    for (const { sequence } of sequences) {
      const request = this.#requestOf.get(sequence)!;
      if (request.start(sequence)) started.push(request);
    }
    return started;
  }

  #tellPreemptions(): void {
    const preempted = this.#scheduler.takePreempted();
    const requests = new Set(preempted.map((sequence) => this.#requestOf.get(sequence)!));
    for (const request of requests) this.#monitor.preempted(request);
  }

  get #hasWork(): boolean {
    return this.#scheduler.numRunning + this.#scheduler.numWaiting > 0 || !this.#logits.isEmpty;
  }

  #emit(drawn: readonly DrawnToken[], logprobs: ReadonlyMap<Sequence, TokenLogprob>): void {
    const emissions: Emission[] = [];
    for (const { sequence, token, finishReason } of drawn) {
      const request = this.#requestOf.get(sequence)!;
      if (request.isDone) continue; // another sequence of it has failed in this step
      if (request.markDrawn()) this.#counts.promptTokens += sequence.promptLength;
      const logprob = logprobs.get(sequence);
      const output = request.sequences.get(sequence);
      if (output !== undefined) {
        const told = {
          ...(finishReason && { finishReason }),
          ...(logprob && { logprobs: [logprob] }),
        };
        emissions.push({ output, tokenIds: [token], ...told });
      } else if (finishReason === "error") request.fail(nonFinite(0));
      else emissions.push(...this.#branch(request, sequence, token, logprob));
    }
    for (const { tokenIds, finishReason } of emissions) {
      if (finishReason !== "error") this.#counts.outputTokens += tokenIds.length;
    }
    this.#detokenizer.emit(emissions);
  }

  /** Replaces sequences by forks once all of their group were drawn for. Returns what is known of the outputs then. */
  #branch(
    request: LiveRequest,
    sequence: Sequence,
    token: number,
    logprob: TokenLogprob | undefined,
  ): readonly Emission[] {
    try {
      const branching = request.brancher!.drawn(sequence, token, logprob);
      if (branching === undefined) return [];
      const { parents, forks, emissions } = branching;
      const children = this.#scheduler.replace(parents, forks);
      for (const parent of parents) request.sequences.delete(parent);
      for (const [i, child] of children.entries()) this.#own(child, request, forks[i]!.output);
      request.brancher!.began(children);
      return emissions;
    } catch (error) {
      request.fail(error);
      return [];
    }
  }

  #own(sequence: Sequence, request: LiveRequest, output: LiveOutput | undefined): void {
    this.#requestOf.set(sequence, request);
    request.sequences.set(sequence, output);
  }

  // ---- the life of a request ----

  #start(checked: CheckedRequest, prompt: PromptSource): Generation {
    if (this.#live.size >= this.#maxLive) throw queueFull(this.#maxLive);
    const request = new LiveRequest(checked, this);
    if (request.isDone) return request.generation; // its signal was aborted already
    this.#live.add(request);
    this.#monitor.queued(request);
    void this.#begin(request, prompt);
    return request.generation;
  }

  /** Queues ids at once, text when it is tokenised. Never rejects: what is wrong is the generation's error. */
  async #begin(request: LiveRequest, prompt: PromptSource): Promise<void> {
    try {
      const admission = await this.#intake.admit(request, prompt);
      if (!request.isDone) this.#enqueue(request, admission);
    } catch (error) {
      request.fail(error);
    }
  }

  #enqueue(request: LiveRequest, admission: Admission): void {
    const { promptTokenIds } = admission;
    const first = beginRequest(request, admission, () => this.#nextId++);
    for (const output of request.outputs) this.#detokenizer.open(output, promptTokenIds);
    this.#own(first, request, request.brancher === undefined ? request.outputs[0] : undefined);
    this.#scheduler.add(first);
    this.#wake();
  }

  #score(...job: Parameters<LogitsQueue["score"]>): ReturnType<LogitsQueue["score"]> {
    const scores = this.#logits.score(...job);
    this.#wake();
    return scores;
  }

  nextStreamId(): number {
    return this.#nextId++;
  }

  outputEnded(request: LiveRequest, output: LiveOutput): void {
    for (const [sequence, drawn] of request.sequences) {
      if (drawn === output) this.#scheduler.abort(sequence);
    }
    this.#detokenizer.close(output);
  }

  requestEnded(request: LiveRequest, outcome: Outcome): void {
    if (!this.#live.delete(request)) return; // its signal was aborted already
    for (const sequence of request.sequences.keys()) this.#scheduler.abort(sequence);
    for (const output of request.outputs) this.#detokenizer.close(output);
    this.#monitor.finished(request, outcome);
  }

  conclude(request: LiveRequest, brancher: Brancher): void {
    for (const sequence of request.sequences.keys()) this.#scheduler.abort(sequence);
    this.#detokenizer.emit(brancher.conclude());
  }

  // ---- the end of the engine ----

  /** Text of steps that succeeded is delivered first: a stop text in it may have ended a request. */
  async #fail(cause: unknown): Promise<void> {
    const error = engineFailure(cause);
    this.#stopped ??= error;
    await this.#detokenizer.drain();
    this.#logits.failAll(error);
    for (const request of [...this.#live]) request.fail(error);
  }

  async #close(): Promise<void> {
    const closed = new PagodaError("ERR_CLOSED", "The engine is closed");
    this.#stopped = closed;
    this.#logits.failAll(closed);
    for (const request of [...this.#live]) request.fail(closed, true);
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
