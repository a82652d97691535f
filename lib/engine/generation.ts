import { argumentError, PagodaError } from "../errors.js";
import { deferred, type Deferred } from "./deferred.js";
import type { OutputPiece } from "./live-output.js";
import type {
  Delta,
  FinishReason,
  Generation,
  GenerateResult,
  TokenLogprob,
  Usage,
} from "./types.js";

/** What the reader has not seen yet of one output. */
interface Unread {
  text: string;
  readonly tokenIds: number[];
  logprobs?: TokenLogprob[];
  finishReason?: FinishReason;
}

/**
 * The caller's end of a request. The engine's side is `start`, `push`, `end`, `finish` and `fail`.
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
  /** By output. */
  readonly #unread: Map<number, Unread> = new Map();
  /** Part of the last delta. */
  #usage: Usage | undefined;
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

  /** More tokens of an output, and the text that they made complete. */
  push(index: number, { text, tokenIds, logprobs }: OutputPiece): void {
    const unread = this.#unreadOf(index);
    unread.text += text;
    for (const token of tokenIds) unread.tokenIds.push(token);
    for (const logprob of logprobs ?? []) (unread.logprobs ??= []).push(logprob);
    this.#wakeReaders();
  }

  /** The end of an output, after the last `push` of it. */
  end(index: number, finishReason: FinishReason): void {
    this.#unreadOf(index).finishReason = finishReason;
    this.#wakeReaders();
  }

  /** The end, in the same turn as the last `end`. */
  finish(result: GenerateResult): void {
    this.#state = "done";
    this.#usage = result.usage;
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
    while (this.#unread.size === 0 && this.#state !== "done") {
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
    for (const [index, unread] of this.#unread) {
      this.#unread.delete(index);
      const isLast = this.#usage !== undefined && this.#unread.size === 0;
      return { done: false, value: { index, ...unread, ...(isLast && { usage: this.#usage! }) } };
    }
    const error = this.#error;
    this.#error = undefined;
    if (error !== undefined) throw error.reason;
    return { done: true, value: undefined };
  }

  #unreadOf(index: number): Unread {
    const unread = this.#unread.get(index) ?? { text: "", tokenIds: [] };
    this.#unread.set(index, unread);
    return unread;
  }

  #handleRejection(): void {
    this.#result.promise.catch(() => {});
  }

  #wakeReaders(): void {
    for (const wake of this.#waiting.splice(0)) wake();
  }
}
