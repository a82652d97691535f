import type { DrawnToken } from "../scheduler/scheduler.js";
import { StopMatcher, type StopMatch } from "../sampling/stop.js";
import { nonFinite } from "./engine-errors.js";
import type { CheckedRequest } from "./request.js";
import type { FinishReason, GeneratedOutput, TokenLogprob } from "./types.js";

/** Tokens of an output with the text that they made complete. */
export interface OutputPiece {
  readonly text: string;
  readonly tokenIds: readonly number[];
  readonly logprobs?: readonly TokenLogprob[];
}

/** The request of an output, which is told what happens to it. */
export interface OutputOwner {
  readonly request: CheckedRequest;
  readonly isDone: boolean;
  grew(output: LiveOutput, piece: OutputPiece): void;
  /** Called once, when nothing follows. */
  ended(output: LiveOutput): void;
  fail(error: unknown): void;
}

/** One output of a request from its first token until its last text is out. */
export class LiveOutput {
  readonly index: number;
  /** Of its text, in the tokenizer. */
  readonly streamId: number;
  readonly owner: OutputOwner;
  /** How good it is beside others, where outputs are ranked. */
  score: number | undefined;
  finishReason: FinishReason | undefined;
  readonly #matcher: StopMatcher;
  readonly #tokenIds: number[] = [];
  readonly #logprobs: TokenLogprob[] = [];
  #text = "";

  constructor(owner: OutputOwner, index: number, streamId: number) {
    this.owner = owner;
    this.index = index;
    this.streamId = streamId;
    this.#matcher = new StopMatcher(owner.request.stop, owner.request);
  }

  get numTokens(): number {
    return this.#tokenIds.length;
  }

  /** Mean log-probability of its tokens, where these are known; -Infinity without any. */
  get meanLogprob(): number {
    const sum = this.#logprobs.reduce((total, { logprob }) => total + logprob, 0);
    return this.#logprobs.length === 0 ? -Infinity : sum / this.#logprobs.length;
  }

  /** The next tokens with the text that they made complete. Tokens behind the end are dropped. */
  deliver(
    tokenIds: readonly number[],
    text: string,
    finishReason: DrawnToken["finishReason"] | FinishReason,
    logprobs: readonly TokenLogprob[] | undefined,
  ): void {
    if (this.finishReason !== undefined || this.owner.isDone) return;
    if (finishReason === "error") return this.owner.fail(nonFinite(this.#tokenIds.length));
    const match = this.#match(text);
    const reason = match.isStopped ? "stop" : finishReason;
    const isFlushed = reason !== undefined && !match.isStopped;
    const visible = isFlushed ? match.text + this.#matcher.flush() : match.text;
    this.#grow({ text: visible, tokenIds, ...(logprobs !== undefined && { logprobs }) });
    if (reason !== undefined) this.#end(reason);
  }

  /** The time is over. Text of tokens that were drawn may be under way; it is dropped with them. */
  expire(): void {
    if (this.finishReason !== undefined) return;
    const held = this.#matcher.flush();
    if (held !== "") this.#grow({ text: held, tokenIds: [] });
    this.#end("deadline");
  }

  /** @param hasLogprobs - whether the caller asked for them */
  result(hasLogprobs: boolean): GeneratedOutput {
    return {
      text: this.#text,
      tokenIds: this.#tokenIds,
      ...(hasLogprobs && { logprobs: this.#logprobs }),
      ...(this.score !== undefined && { score: this.score }),
      finishReason: this.finishReason!,
    };
  }

  #grow(piece: OutputPiece): void {
    this.#text += piece.text;
    for (const token of piece.tokenIds) this.#tokenIds.push(token);
    for (const logprob of piece.logprobs ?? []) this.#logprobs.push(logprob);
    this.owner.grew(this, piece);
  }

  #end(reason: FinishReason): void {
    this.finishReason = reason;
    this.owner.ended(this);
  }

  /** Stop texts count from behind the least number of tokens on, as in vLLM. */
  #match(text: string): StopMatch {
    const { minTokens } = this.owner.request.controls;
    if (this.#tokenIds.length < minTokens) return { text, isStopped: false };
    return this.#matcher.push(text);
  }
}
