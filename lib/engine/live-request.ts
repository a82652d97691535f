import type { Sequence } from "../scheduler/sequence.js";
import { abortError, onAbort } from "./abort.js";
import type { Brancher } from "./brancher.js";
import { LiveGeneration } from "./generation.js";
import { LiveOutput, type OutputOwner, type OutputPiece } from "./live-output.js";
import type { CheckedRequest } from "./request.js";
import type { FinishReason, GenerateResult, TokenLogprob, Usage } from "./types.js";

/** How a request has ended: with a finish reason, or else an error. */
export interface Outcome {
  readonly finishReason: FinishReason | undefined;
  readonly error: unknown;
  readonly usage: Usage;
}

/** The engine, which is told what happens to a request. */
export interface RequestOwner {
  /** The id of the next stream of text. */
  nextStreamId(): number;
  /** Its sequence may still run: a stop text was found in what it has drawn. */
  outputEnded(request: LiveRequest, output: LiveOutput): void;
  /** Called once, before the caller hears of the end. */
  requestEnded(request: LiveRequest, outcome: Outcome): void;
  /** The deadline is over, and the outputs are yet to be chosen. */
  conclude(request: LiveRequest, brancher: Brancher): void;
}

/** What is done at the end of a request. */
export type OnSettled = (result: GenerateResult | undefined) => void;

/**
 * The engine's record of a request, from the call until its last text is out. That may be some steps after its last
 * token was drawn, as text comes from the tokenizer's worker while the next steps run.
 */
export class LiveRequest implements OutputOwner {
  readonly request: CheckedRequest;
  readonly generation: LiveGeneration;
  /** Those that are returned, or, with `bestOf`, chosen from. Never none. */
  readonly outputs: LiveOutput[];
  /** Undefined while the prompt is tokenised. */
  promptTokenIds: Int32Array | undefined;
  /** All that were queued for it, with the output that each one draws, if that is known. */
  readonly sequences: Map<Sequence, LiveOutput | undefined> = new Map();
  /** Set where one prompt leads to several sequences. */
  brancher: Brancher | undefined;
  /** Set before it is queued, when it asks for them. */
  promptLogprobs: readonly (TokenLogprob | null)[] | undefined;
  /** Ends the computation of `promptLogprobs`; set while it is under way. */
  scoring: AbortController | undefined;
  readonly #owner: RequestOwner;
  readonly #onSettled: OnSettled | undefined;
  readonly #arrivedAt = performance.now();
  #startedAt: number | undefined;
  #firstTokenAt: number | undefined;
  #numCachedTokens = 0;
  #stopListening: () => void = () => {};
  #deadline: NodeJS.Timeout | undefined;

  /** @param onSettled - called once, before the caller hears of the end; without a result where it failed */
  constructor(request: CheckedRequest, owner: RequestOwner, onSettled?: OnSettled) {
    this.request = request;
    this.#onSettled = onSettled;
    this.generation = new LiveGeneration(crypto.randomUUID(), (error) => this.fail(error, true));
    this.#owner = owner;
    const { n, bestOf, beam } = request.outputs;
    const count = beam === undefined ? bestOf : n;
    this.outputs = Array.from(
      { length: count },
      (_, index) => new LiveOutput(this, index, owner.nextStreamId()),
    );
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

  /** Leading prompt tokens that were found in the prefix cache. */
  get numCachedTokens(): number {
    return this.#numCachedTokens;
  }

  /** A step that runs this sequence of it begins. Returns whether that is the first one. */
  start({ numCachedTokens }: Sequence): boolean {
    if (this.#startedAt !== undefined) return false;
    this.#startedAt = performance.now();
    this.#numCachedTokens = numCachedTokens;
    this.generation.start();
    return true;
  }

  /** A token was drawn; its text may still take a while. Returns whether it is the first one. */
  markDrawn(): boolean {
    if (this.#firstTokenAt !== undefined) return false;
    this.#firstTokenAt = performance.now();
    return true;
  }

  grew({ index }: LiveOutput, piece: OutputPiece): void {
    if (!this.#isRanked) this.generation.push(index, this.#visible(piece));
  }

  ended(output: LiveOutput): void {
    if (!this.#isRanked) this.generation.end(output.index, output.finishReason!);
    this.#owner.outputEnded(this, output);
    if (this.outputs.every(({ finishReason }) => finishReason !== undefined)) this.#finish();
  }

  /** @param isOwnersWish - see {@link LiveGeneration.fail} */
  fail(error: unknown, isOwnersWish = false): void {
    if (this.isDone) return;
    const usage = this.#usage();
    this.generation.fail(error, isOwnersWish);
    this.#end({ finishReason: undefined, error, usage });
  }

  /** Whether the outputs that are returned are chosen when all have ended. */
  get #isRanked(): boolean {
    const { n } = this.request.outputs;
    return this.outputs.length > n;
  }

  get #hasLogprobs(): boolean {
    return this.request.sampling.numLogprobs !== undefined;
  }

  #visible({ logprobs, ...piece }: OutputPiece): OutputPiece {
    return logprobs !== undefined && this.#hasLogprobs ? { ...piece, logprobs } : piece;
  }

  #expire(): void {
    if (this.isDone) return;
    if (this.request.outputs.beam !== undefined && this.brancher !== undefined) {
      this.#owner.conclude(this, this.brancher);
    } else for (const output of this.outputs) output.expire();
  }

  #finish(): void {
    const outputs = this.#isRanked ? this.#chooseBest() : this.outputs;
    const results = outputs.map((output) => output.result(this.#hasLogprobs));
    const promptTokenIds = Array.from(this.promptTokenIds ?? []); // none while they are still text
    const { promptLogprobs } = this;
    const result: GenerateResult = {
      ...results[0]!,
      outputs: results,
      promptTokenIds,
      ...(promptLogprobs !== undefined && { promptLogprobs }),
      usage: this.#usage(),
    };
    this.generation.finish(result);
    const { finishReason, usage } = result;
    this.#end({ finishReason, error: undefined, usage }, result);
  }

  /** Those with the highest log-probability a token, told now as they are whole. */
  #chooseBest(): LiveOutput[] {
    for (const output of this.outputs) output.score = output.meanLogprob;
    const ranked = [...this.outputs].sort((a, b) => b.score! - a.score!);
    const best = ranked.slice(0, this.request.outputs.n);
    for (const [index, output] of best.entries()) {
      const { finishReason, ...piece } = output.result(this.#hasLogprobs);
      this.generation.push(index, piece);
      this.generation.end(index, finishReason);
    }
    return best;
  }

  /** Those who await or iterate the generation hear of it later, as their promises do. */
  #end(outcome: Outcome, result?: GenerateResult): void {
    this.#stopListening();
    clearTimeout(this.#deadline);
    this.scoring?.abort();
    this.#owner.requestEnded(this, outcome);
    this.#onSettled?.(result);
  }

  /** As if it ended now. */
  #usage(): Usage {
    const now = performance.now();
    const startedAt = this.#startedAt ?? now;
    const firstTokenAt = this.#firstTokenAt ?? now;
    return {
      promptTokens: this.promptTokenIds?.length ?? 0,
      cachedTokens: this.#numCachedTokens,
      outputTokens: this.outputs.reduce((sum, { numTokens }) => sum + numTokens, 0),
      queueMs: startedAt - this.#arrivedAt,
      prefillMs: firstTokenAt - startedAt,
      decodeMs: now - firstTokenAt,
      ttftMs: firstTokenAt - this.#arrivedAt,
      totalMs: now - this.#arrivedAt,
    };
  }
}
