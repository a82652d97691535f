import { EventHub } from "../../lib/engine/event-hub.js";
import type { EngineEventListener, EngineEvents } from "../../lib/engine/events.js";
import { LiveGeneration } from "../../lib/engine/generation.js";
import type {
  ChatRequest,
  Engine,
  EngineStats,
  GeneratedOutput,
  Generation,
  GenerateRequest,
} from "../../lib/engine/types.js";
import type { Session } from "../../lib/engine/session-types.js";
import { PagodaError } from "../../lib/errors.js";

export interface FakeEngineOptions {
  /** Text of one token. @default a few letters that depend on the prompt and the position */
  readonly tokenText?: (index: number) => string;
  /** Thrown by `generate` and `chat`. */
  readonly refuse?: PagodaError;
  /** What every generation fails with after `failAfter` tokens. */
  readonly failure?: PagodaError;
  readonly failAfter?: number;
  /** Milliseconds before the first token. @default 0 */
  readonly firstTokenMs?: number;
  /** Milliseconds between two tokens. @default a turn of the event loop */
  readonly tokenMs?: number;
}

type Common = Pick<GenerateRequest, "maxTokens" | "n" | "signal">;

/**
 * A FAKE engine for what a real one cannot be made to do at will: endless floods of text, failures in mid-stream, a full
 * queue. It has no model: each output of a request draws one invented token a turn of the event loop, and each request holds
 * one block.
 */
export class FakeEngine implements Engine {
  readonly #options: FakeEngineOptions;
  readonly #totalBlocks = 1000;
  #running = 0;
  /** Tokens drawn by all requests. */
  tokens = 0;
  /** Tests tell its events themselves. */
  readonly events: EventHub = new EventHub();
  readonly tokenizer = undefined;
  readonly info: Engine["info"] = {
    model: {
      name: "fake",
      architecture: "Fake",
      parameters: 0,
      vocabSize: 256,
      maxModelLen: 2 ** 31 - 1,
      dtype: "f32",
      eosTokenIds: [],
      hasTokenizer: false,
      hasChatTemplate: true,
      fingerprint: "f".repeat(64),
    },
    device: {
      backend: "fake",
      index: 0,
      name: "fake",
      isa: "none",
      totalMemory: 0,
      availableMemory: 0,
      threads: 1,
    },
    passedOver: [],
    kvCache: { blockSize: 16, numBlocks: 1001, dtype: "f32", memory: 0 },
    weightMemory: 0,
    loadMs: 0,
  };

  constructor(options: FakeEngineOptions = {}) {
    this.#options = options;
  }

  generate(request: GenerateRequest): Generation {
    return this.#start(String(request.prompt), request);
  }

  chat(request: ChatRequest): Generation {
    return this.#start(JSON.stringify(request.messages), request);
  }

  #start(prompt: string, request: Common): Generation {
    if (this.#options.refuse !== undefined) throw this.#options.refuse;
    this.#running++;
    const generation = new FakeGeneration(prompt, request, this.#options, () => this.tokens++);
    generation.done.then(() => this.#running--);
    return generation.live;
  }

  stats(): EngineStats {
    return {
      waiting: 0,
      running: this.#running,
      totalBlocks: this.#totalBlocks,
      freeBlocks: this.#totalBlocks - this.#running,
      cachedBlocks: 0,
      sharedBlocks: 0,
      prefixCache: { queriedTokens: 0, hitTokens: 0 },
      steps: 0,
      stepMs: 0,
      queueMs: 0,
      prefillMs: 0,
      decodeMs: 0,
      finished: { stop: 0, length: 0, deadline: 0, abort: 0, error: 0 },
      preemptions: 0,
      promptTokens: 0,
      outputTokens: this.tokens,
    };
  }

  session(): Session {
    throw new Error("not faked");
  }

  async restoreSession(): Promise<Session> {
    throw new Error("not faked");
  }

  async logits(): Promise<Float32Array> {
    return new Float32Array(0);
  }

  resetPrefixCache(): void {}

  on<K extends keyof EngineEvents>(
    event: K,
    listener: EngineEventListener<K>,
    options?: { readonly signal?: AbortSignal },
  ): () => void {
    return this.events.on(event, listener, options);
  }

  async close(): Promise<void> {}

  async [Symbol.asyncDispose](): Promise<void> {}
}

interface FakeOutput {
  text: string;
  readonly tokenIds: number[];
}

class FakeGeneration {
  readonly live: LiveGeneration;
  /** Resolves when it has ended in any way. */
  readonly done: Promise<void>;
  readonly #prompt: string;
  readonly #options: FakeEngineOptions;
  readonly #maxTokens: number;
  readonly #onToken: () => void;
  #markDone: () => void = () => undefined;
  readonly #outputs: readonly FakeOutput[];
  #numSteps = 0;
  #ended = false;

  constructor(prompt: string, request: Common, options: FakeEngineOptions, onToken: () => void) {
    this.#prompt = prompt;
    this.#options = options;
    this.#maxTokens = request.maxTokens ?? Number.POSITIVE_INFINITY;
    this.#onToken = onToken;
    this.#outputs = Array.from({ length: request.n ?? 1 }, () => ({ text: "", tokenIds: [] }));
    this.done = new Promise((resolve) => (this.#markDone = resolve));
    this.live = new LiveGeneration("fake", (error) => this.#fail(error, true));
    if (request.signal?.aborted === true) this.live.cancel();
    request.signal?.addEventListener("abort", () => this.live.cancel());
    setTimeout(() => this.#step(), options.firstTokenMs ?? 0);
  }

  #step(): void {
    if (this.#ended) return;
    const { failure, failAfter = 0, tokenMs } = this.#options;
    if (failure !== undefined && this.#numSteps >= failAfter) return this.#fail(failure, false);
    this.live.start();
    for (const index of this.#outputs.keys()) this.#draw(index);
    this.#numSteps++;
    if (this.#numSteps >= this.#maxTokens) this.#finish();
    else if (tokenMs === undefined) setImmediate(() => this.#step());
    else setTimeout(() => this.#step(), tokenMs);
  }

  #draw(index: number): void {
    const output = this.#outputs[index]!;
    const id = (this.#numSteps * 31 + this.#prompt.length * 7 + index) % 256;
    const text = this.#options.tokenText?.(this.#numSteps) ?? `${id.toString(36)} `;
    output.tokenIds.push(id);
    output.text += text;
    this.#onToken();
    this.live.push(index, { text, tokenIds: [id] });
  }

  #finish(): void {
    this.#end();
    const outputs = this.#outputs.map((output): GeneratedOutput => ({
      ...output,
      finishReason: "length",
    }));
    const outputTokens = this.#numSteps * outputs.length;
    for (const index of outputs.keys()) this.live.end(index, "length");
    const times = { queueMs: 0, prefillMs: 0, decodeMs: 0, ttftMs: 0, totalMs: 0 };
    this.live.finish({
      ...outputs[0]!,
      outputs,
      promptTokenIds: [1],
      usage: { promptTokens: 1, cachedTokens: 0, outputTokens, ...times },
    });
  }

  #fail(error: PagodaError, isOwnersWish: boolean): void {
    this.#end();
    this.live.fail(error, isOwnersWish);
  }

  #end(): void {
    this.#ended = true;
    this.#markDone();
  }
}
