import type { StreamInput, Tokenizer } from "../loading/tokenizer.js";
import type { DrawnToken } from "../scheduler/scheduler.js";
import type { LiveOutput } from "./live-output.js";
import type { FinishReason, TokenLogprob } from "./types.js";

/** Drawn tokens on their way to their output. */
export interface Emission {
  readonly output: LiveOutput;
  readonly tokenIds: readonly number[];
  readonly finishReason?: DrawnToken["finishReason"] | FinishReason;
  /** One a token, where the output needs them. */
  readonly logprobs?: readonly TokenLogprob[];
}

/** Steps whose text may be outstanding; the engine then waits for the tokenizer instead of running further ahead. */
const maxLag = 32;

/**
 * Brings drawn tokens to their outputs with the text that they make complete. Each step is one message to the
 * tokenizer's worker, and later steps do not wait for the answer. Tokens arrive in the order in which they were drawn,
 * one a step, so a stop text that is found late still ends the output at exactly the token that completed it.
 */
export class Detokenizer {
  readonly #tokenizer: Tokenizer | undefined;
  /** Deliveries under way, oldest first. None of them rejects. */
  readonly #underWay: Promise<void>[] = [];

  /** Without a tokenizer, tokens are delivered at once and without text. */
  constructor(tokenizer: Tokenizer | undefined) {
    this.#tokenizer = tokenizer;
  }

  open({ streamId, owner }: LiveOutput, promptIds: Int32Array): void {
    const { skipSpecialTokens } = owner.request;
    this.#tokenizer?.openStream(streamId, promptIds, { skipSpecialTokens });
  }

  /** Forgets an output; nothing happens when its stream has ended. */
  close({ streamId }: LiveOutput): void {
    this.#tokenizer?.closeStream(streamId);
  }

  /** The tokens of one step. */
  emit(step: readonly Emission[]): void {
    if (step.length === 0) return;
    if (this.#tokenizer === undefined) return deliver(step, new Map());
    const delivery = this.#deliverInOrder(this.#tokenizer, step, this.#underWay.at(-1));
    this.#underWay.push(delivery);
    void delivery.then(() => this.#underWay.shift());
  }

  /** Resolves once the tokenizer is at most {@link maxLag} steps behind. */
  async ready(): Promise<void> {
    while (this.#underWay.length >= maxLag) await this.#underWay[0];
  }

  /** Resolves once everything emitted was delivered. */
  async drain(): Promise<void> {
    await this.#underWay.at(-1);
  }

  async #deliverInOrder(
    tokenizer: Tokenizer,
    step: readonly Emission[],
    previous: Promise<void> | undefined,
  ): Promise<void> {
    try {
      const [outputs] = await Promise.all([tokenizer.feed(step.map(streamInput)), previous]);
      deliver(step, new Map(outputs.map(({ id, text }) => [id, text])));
    } catch (error) {
      await previous;
      for (const { output } of step) output.owner.fail(error);
    }
  }
}

function deliver(step: readonly Emission[], texts: ReadonlyMap<number, string>): void {
  for (const { output, tokenIds, finishReason, logprobs } of step) {
    output.deliver(tokenIds, texts.get(output.streamId) ?? "", finishReason, logprobs);
  }
}

/** A token that ended its output by itself is not part of the text, unless the request wants it to be. */
function streamInput({ output, tokenIds, finishReason }: Emission): StreamInput {
  const isCut =
    (finishReason === "stop" || finishReason === "error") && !output.owner.request.includeStop;
  const tokens = isCut ? tokenIds.slice(0, -1) : tokenIds;
  return { id: output.streamId, tokens, last: finishReason !== undefined };
}
