import type { StreamInput, Tokenizer } from "../loading/tokenizer.js";
import type { DrawnToken } from "../scheduler/scheduler.js";
import type { LiveRequest } from "./live-request.js";
import type { TokenLogprob } from "./types.js";

/** A drawn token on its way to its request. */
export interface Emission {
  readonly request: LiveRequest;
  readonly token: number;
  readonly finishReason?: DrawnToken["finishReason"];
  /** When the request asks for it. */
  readonly logprob?: TokenLogprob | undefined;
}

/** Steps whose text may be outstanding; the engine then waits for the tokenizer instead of running further ahead. */
const maxLag = 32;

/**
 * Brings drawn tokens to their requests with the text that they make complete. Each step is one message to the
 * tokenizer's worker, and later steps do not wait for the answer. Tokens arrive in the order in which they were drawn,
 * one a step, so a stop text that is found late still ends the request at exactly the token that completed it.
 */
export class Detokenizer {
  readonly #tokenizer: Tokenizer | undefined;
  /** Deliveries under way, oldest first. None of them rejects. */
  readonly #underWay: Promise<void>[] = [];

  /** Without a tokenizer, tokens are delivered at once and without text. */
  constructor(tokenizer: Tokenizer | undefined) {
    this.#tokenizer = tokenizer;
  }

  open({ id, request }: LiveRequest, promptIds: Int32Array): void {
    const { skipSpecialTokens } = request;
    this.#tokenizer?.openStream(id, promptIds, { skipSpecialTokens });
  }

  /** Forgets a request; nothing happens when its stream has ended. */
  close({ id }: LiveRequest): void {
    this.#tokenizer?.closeStream(id);
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
      for (const { request } of step) request.fail(error);
    }
  }
}

function deliver(step: readonly Emission[], texts: ReadonlyMap<number, string>): void {
  for (const { request, token, finishReason, logprob } of step) {
    request.deliver(token, texts.get(request.id) ?? "", finishReason, logprob);
  }
}

/** A token that ended its request by itself is not part of the text, unless the request wants it to be. */
function streamInput({ request, token, finishReason }: Emission): StreamInput {
  const { includeStop } = request.request;
  const isText = finishReason === undefined || finishReason === "length" || includeStop;
  return { id: request.id, tokens: isText ? [token] : [], last: finishReason !== undefined };
}
