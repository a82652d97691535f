import { argumentError, PagodaError } from "../errors.js";
import { deferred, type Deferred } from "./deferred.js";
import type {
  Delta,
  FinishReason,
  Generation,
  GenerateResult,
  TokenLogprob,
  Usage,
} from "./types.js";

/**
 * The caller's end of a request. The engine's side is `start`, `push`, `finish` and `fail`.
 *
 * Deltas that nobody has read yet are joined, so a slow reader gets fewer, larger ones, and a generation that is only
 * awaited keeps no list of them. It can be iterated once, as there is one buffer.
 *
 * Errors: the result's promise rejects, so an error that nobody looks at is an unhandled rejection, as with any promise.
 * Two cases are exempt. A generation that is iterated reports the error there. And one that was ended by its owner, by
 * cancel(), its signal, leaving the loop or closing the engine, owes nobody a report.
 */
export class LiveGeneration implements Generation {
  readonly id: string;
  readonly #onCancel: (error: PagodaError) => void;
  readonly #result: Deferred<GenerateResult> = deferred();
  #state: Generation["state"] = "queued";
  #isIterated = false;
  /** What the reader has not seen yet. */
  #unread: { text: string; tokenIds: number[]; logprobs?: TokenLogprob[] } | undefined;
  /** Set on the last delta. */
  #end: { readonly finishReason: FinishReason; readonly usage: Usage } | undefined;
  /** Set when it has failed, until the reader has got it. */
  #error: { readonly reason: unknown } | undefined;
  /** Readers that wait for a delta or the end. */
  #waiting: (() => void)[] = [];

  /** @param onCancel - called once at most, while the request lives; must lead to `fail` */
  constructor(id: string, onCancel: (error: PagodaError) => void) {
    this.id = id;
    this.#onCancel = onCancel;
  }

  get state(): Generation["state"] {
    return this.#state;
  }

  cancel(reason?: unknown): void {
    if (this.#state === "done") return;
    this.#onCancel(
      new PagodaError("ERR_ABORTED", "The generation was cancelled", { cause: reason }),
    );
  }

  // oxlint-disable-next-line unicorn/no-thenable -- awaiting a generation is its documented use
  then<A = GenerateResult, B = never>(
    onFulfilled?: ((result: GenerateResult) => A | PromiseLike<A>) | null,
    onRejected?: ((error: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    return this.#result.promise.then(onFulfilled, onRejected);
  }

  [Symbol.asyncIterator](): AsyncIterableIterator<Delta> {
    if (this.#isIterated)
      throw argumentError("generation", "one that was not iterated before", this);
    this.#isIterated = true;
    this.#handleRejection();
    let hasLeft = false;
    const iterator: AsyncIterableIterator<Delta> = {
      next: async () => (hasLeft ? { done: true, value: undefined } : this.#next()),
      return: async () => {
        hasLeft = true;
        this.cancel();
        return { done: true, value: undefined };
      },
      [Symbol.asyncIterator]: () => iterator,
    };
    return iterator;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.cancel();
  }

  /** The first step runs it. */
  start(): void {
    if (this.#state === "queued") this.#state = "running";
  }

  /** More tokens, and the text that they made complete. */
  push(text: string, tokenIds: readonly number[], logprobs?: readonly TokenLogprob[]): void {
    this.#unread ??= { text: "", tokenIds: [] };
    this.#unread.text += text;
    for (const token of tokenIds) this.#unread.tokenIds.push(token);
    if (logprobs !== undefined) (this.#unread.logprobs ??= []).push(...logprobs);
    this.#wakeReaders();
  }

  /** The end, after the last `push`. */
  finish(result: GenerateResult): void {
    this.#state = "done";
    this.#end = { finishReason: result.finishReason, usage: result.usage };
    this.#unread ??= { text: "", tokenIds: [] };
    this.#result.resolve(result);
    this.#wakeReaders();
  }

  /** @param isOwnersWish - whether the owner ended it, so that nobody needs to look at the error */
  fail(reason: unknown, isOwnersWish: boolean): void {
    this.#state = "done";
    this.#error = { reason };
    if (isOwnersWish) this.#handleRejection();
    this.#result.reject(reason);
    this.#wakeReaders();
  }

  async #next(): Promise<IteratorResult<Delta>> {
    while (this.#unread === undefined && this.#state !== "done") {
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
    if (this.#unread !== undefined) {
      const value: Delta = { ...this.#unread, ...this.#end };
      this.#unread = undefined;
      return { done: false, value };
    }
    const error = this.#error;
    this.#error = undefined;
    if (error !== undefined) throw error.reason;
    return { done: true, value: undefined };
  }

  #handleRejection(): void {
    this.#result.promise.catch(() => {});
  }

  #wakeReaders(): void {
    for (const wake of this.#waiting.splice(0)) wake();
  }
}
