import { PagodaError } from "../errors.js";
import type { DrawnToken } from "../scheduler/scheduler.js";
import type { Sequence } from "../scheduler/sequence.js";
import { StopMatcher } from "../sampling/stop.js";
import { abortError, onAbort } from "./abort.js";
import { LiveGeneration } from "./generation.js";
import type { CheckedRequest } from "./request.js";
import type { FinishReason, GenerateResult } from "./types.js";

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
  readonly #onEnd: (ended: LiveRequest) => void;
  readonly #matcher: StopMatcher;
  readonly #arrivedAt = performance.now();
  #startedAt: number | undefined;
  #firstTokenAt: number | undefined;
  readonly #tokenIds: number[] = [];
  #text = "";
  #stopListening: () => void = () => {};

  /** @param onEnd - called once, before the caller hears of the end */
  constructor(id: number, request: CheckedRequest, onEnd: (ended: LiveRequest) => void) {
    this.id = id;
    this.request = request;
    this.generation = new LiveGeneration(crypto.randomUUID(), (error) => this.fail(error, true));
    this.#onEnd = onEnd;
    this.#matcher = new StopMatcher(request.stop);
    const { signal } = request;
    if (signal?.aborted) this.fail(abortError(signal), true);
    else this.#stopListening = onAbort(signal, (error) => this.fail(error, true));
  }

  get isDone(): boolean {
    return this.generation.state === "done";
  }

  /** A step that runs it begins. */
  start(): void {
    if (this.#startedAt !== undefined) return;
    this.#startedAt = performance.now();
    this.generation.start();
  }

  /** A token was drawn; its text may still take a while. */
  markDrawn(): void {
    this.#firstTokenAt ??= performance.now();
  }

  /** The next drawn token with the text that it made complete. Tokens behind the end are dropped. */
  deliver(token: number, text: string, finishReason: DrawnToken["finishReason"]): void {
    if (this.isDone) return;
    if (finishReason === "error") return this.fail(nonFinite(this.#tokenIds.length));
    const match = this.#matcher.push(text);
    const reason = match.isStopped ? "stop" : finishReason;
    const isFlushed = reason !== undefined && !match.isStopped;
    const visible = isFlushed ? match.text + this.#matcher.flush() : match.text;
    this.#tokenIds.push(token);
    this.#text += visible;
    this.generation.push(visible, [token]);
    if (reason !== undefined) this.#finish(reason);
  }

  /** @param isOwnersWish - see {@link LiveGeneration.fail} */
  fail(error: unknown, isOwnersWish = false): void {
    if (this.isDone) return;
    this.#end();
    this.generation.fail(error, isOwnersWish);
  }

  #finish(finishReason: FinishReason): void {
    this.#end();
    this.generation.finish(this.#result(finishReason));
  }

  #end(): void {
    this.#stopListening();
    this.#onEnd(this);
  }

  #result(finishReason: FinishReason): GenerateResult {
    const { promptLength, tokenIds } = this.sequence!;
    const now = performance.now();
    const usage = {
      promptTokens: promptLength,
      outputTokens: this.#tokenIds.length,
      queueMs: (this.#startedAt ?? now) - this.#arrivedAt,
      ttftMs: (this.#firstTokenAt ?? now) - this.#arrivedAt,
      totalMs: now - this.#arrivedAt,
    };
    const promptTokenIds = Array.from(tokenIds.subarray(0, promptLength));
    return { text: this.#text, tokenIds: this.#tokenIds, promptTokenIds, finishReason, usage };
  }
}

function nonFinite(numOutputTokens: number): PagodaError {
  return new PagodaError("ERR_NON_FINITE", "The model produced logits that are NaN or infinite", {
    details: { outputTokens: numOutputTokens },
  });
}
