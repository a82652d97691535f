import { PagodaError } from "../errors.js";
import type { DrawnToken } from "../scheduler/scheduler.js";
import type { Sequence } from "../scheduler/sequence.js";
import { StopMatcher, type StopMatch } from "../sampling/stop.js";
import { abortError, onAbort } from "./abort.js";
import { LiveGeneration } from "./generation.js";
import type { CheckedRequest } from "./request.js";
import type { FinishReason, GenerateResult, TokenLogprob, Usage } from "./types.js";

/** How a request has ended: with a finish reason, or else an error. */
export interface Outcome {
  readonly finishReason: FinishReason | undefined;
  readonly error: unknown;
  readonly usage: Usage;
}

/**
 * The engine's record of a request, from the call until its last text is out. That may be some steps after its last
 * token was drawn, as text comes from the tokenizer's worker while the next steps run.
 */
export class LiveRequest {
  readonly id: number;
  readonly request: CheckedRequest;
  readonly generation: LiveGeneration;
  /** Undefined while the prompt is tokenised. */
  sequence: Sequence | undefined;
  /** Set before it is queued, when it asks for them. */
  promptLogprobs: readonly (TokenLogprob | null)[] | undefined;
  /** Ends the computation of `promptLogprobs`; set while it is under way. */
  scoring: AbortController | undefined;
  readonly #onEnd: (ended: LiveRequest, outcome: Outcome) => void;
  readonly #matcher: StopMatcher;
  readonly #arrivedAt = performance.now();
  #startedAt: number | undefined;
  #firstTokenAt: number | undefined;
  #numPreemptions = 0;
  readonly #tokenIds: number[] = [];
  readonly #logprobs: TokenLogprob[] = [];
  #text = "";
  #stopListening: () => void = () => {};
  #deadline: NodeJS.Timeout | undefined;

  /** @param onEnd - called once, before the caller hears of the end */
  constructor(
    id: number,
    request: CheckedRequest,
    onEnd: (ended: LiveRequest, outcome: Outcome) => void,
  ) {
    this.id = id;
    this.request = request;
    this.generation = new LiveGeneration(crypto.randomUUID(), (error) => this.fail(error, true));
    this.#onEnd = onEnd;
    this.#matcher = new StopMatcher(request.stop, request);
    const { signal, deadlineMs } = request;
    if (signal?.aborted) {
      this.fail(abortError(signal), true);
      return;
    }
    this.#stopListening = onAbort(signal, (error) => this.fail(error, true));
    if (deadlineMs !== undefined) this.#deadline = setTimeout(() => this.#expire(), deadlineMs);
  }

  get isDone(): boolean {
    return this.generation.state === "done";
  }

  /** A step that runs it begins. Returns whether that is the first one. */
  start(): boolean {
    if (this.#startedAt !== undefined) return false;
    this.#startedAt = performance.now();
    this.generation.start();
    return true;
  }

  /** Whether it was preempted since the last call. */
  takePreemption(): boolean {
    const { numPreemptions = 0 } = this.sequence ?? {};
    const isNew = numPreemptions > this.#numPreemptions;
    this.#numPreemptions = numPreemptions;
    return isNew;
  }

  /** A token was drawn; its text may still take a while. */
  markDrawn(): void {
    this.#firstTokenAt ??= performance.now();
  }

  /** The next drawn token with the text that it made complete. Tokens behind the end are dropped. */
  deliver(
    token: number,
    text: string,
    finishReason: DrawnToken["finishReason"],
    logprob?: TokenLogprob,
  ): void {
    if (this.isDone) return;
    if (finishReason === "error") return this.fail(nonFinite(this.#tokenIds.length));
    const match = this.#match(text);
    const reason = match.isStopped ? "stop" : finishReason;
    const isFlushed = reason !== undefined && !match.isStopped;
    const visible = isFlushed ? match.text + this.#matcher.flush() : match.text;
    this.#tokenIds.push(token);
    this.#text += visible;
    if (logprob !== undefined) this.#logprobs.push(logprob);
    this.generation.push(visible, [token], logprob && [logprob]);
    if (reason !== undefined) this.#finish(reason);
  }

  /** Stop texts count from behind the least number of tokens on, as in vLLM. */
  #match(text: string): StopMatch {
    const { minTokens } = this.request.controls;
    if (this.#tokenIds.length < minTokens) return { text, isStopped: false };
    return this.#matcher.push(text);
  }

  /** @param isOwnersWish - see {@link LiveGeneration.fail} */
  fail(error: unknown, isOwnersWish = false): void {
    if (this.isDone) return;
    const usage = this.#usage();
    this.generation.fail(error, isOwnersWish);
    this.#end({ finishReason: undefined, error, usage });
  }

  /** Text of tokens that were drawn may be under way; it is dropped with them. */
  #expire(): void {
    if (this.isDone) return;
    const held = this.#matcher.flush();
    this.#text += held;
    if (held !== "") this.generation.push(held, []);
    this.#finish("deadline");
  }

  #finish(finishReason: FinishReason): void {
    const result = this.#result(finishReason);
    this.generation.finish(result);
    this.#end({ finishReason, error: undefined, usage: result.usage });
  }

  /** Those who await or iterate the generation hear of it later, as their promises do. */
  #end(outcome: Outcome): void {
    this.#stopListening();
    clearTimeout(this.#deadline);
    this.scoring?.abort();
    this.#onEnd(this, outcome);
  }

  /** None while they are still text. */
  #promptTokenIds(): number[] {
    const { sequence } = this;
    return sequence === undefined
      ? []
      : Array.from(sequence.tokenIds.subarray(0, sequence.promptLength));
  }

  /** As if it ended now. */
  #usage(): Usage {
    const now = performance.now();
    const { promptLength = 0, numCachedTokens = 0 } = this.sequence ?? {};
    const startedAt = this.#startedAt ?? now;
    const firstTokenAt = this.#firstTokenAt ?? now;
    return {
      promptTokens: promptLength,
      cachedTokens: numCachedTokens,
      outputTokens: this.#tokenIds.length,
      queueMs: startedAt - this.#arrivedAt,
      prefillMs: firstTokenAt - startedAt,
      decodeMs: now - firstTokenAt,
      ttftMs: firstTokenAt - this.#arrivedAt,
      totalMs: now - this.#arrivedAt,
    };
  }

  #result(finishReason: FinishReason): GenerateResult {
    const promptTokenIds = this.#promptTokenIds();
    const usage = this.#usage();
    const { promptLogprobs } = this;
    return {
      text: this.#text,
      tokenIds: this.#tokenIds,
      promptTokenIds,
      ...(this.request.sampling.numLogprobs !== undefined && { logprobs: this.#logprobs }),
      ...(promptLogprobs !== undefined && { promptLogprobs }),
      finishReason,
      usage,
    };
  }
}

function nonFinite(numOutputTokens: number): PagodaError {
  const message =
    "The model produced logits that are NaN or infinite, or the request rules out every token";
  return new PagodaError("ERR_NON_FINITE", message, { details: { outputTokens: numOutputTokens } });
}
