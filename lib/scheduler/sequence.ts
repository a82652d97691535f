import { BlockTable } from "../cache/block-manager.js";
import { argumentError, assert } from "../errors.js";
import { greedySampling, type SamplingParams } from "../sampling/sampling-params.js";
import type { StopConditions } from "../sampling/stop.js";

export interface SequenceOptions {
  /** Unique among the sequences of a scheduler. */
  readonly id: number;
  /** At least one token. Copied. */
  readonly promptTokenIds: ArrayLike<number>;
  readonly stop: StopConditions;
  /** @default greedy */
  readonly sampling?: SamplingParams;
}

/** `new` (in no scheduler), `waiting` (also after a preemption), `running` (holds blocks), `finished` (for any reason). */
export type SequenceStatus = "new" | "waiting" | "running" | "finished";

/**
 * One token sequence: prompt and output so far, and how far it is computed. There is no prefill or decode phase: every
 * step, `numComputedTokens` catches up with `numTokens`; where it does, a token is drawn. Only the scheduler changes it.
 */
export class Sequence {
  readonly id: number;
  readonly promptLength: number;
  readonly stop: StopConditions;
  readonly sampling: SamplingParams;
  readonly blockTable: BlockTable = new BlockTable();
  status: SequenceStatus = "new";
  /** Leading tokens whose K and V are in the cache. */
  numComputedTokens = 0;
  numPreemptions = 0;
  #numTokens: number;
  /** Grows; the first `#numTokens` are used. */
  #tokenIds: Int32Array;

  constructor({ id, promptTokenIds, stop, sampling = greedySampling }: SequenceOptions) {
    if (promptTokenIds.length === 0) {
      throw argumentError("promptTokenIds", "at least one token", promptTokenIds);
    }
    this.id = id;
    this.stop = stop;
    this.sampling = sampling;
    this.promptLength = promptTokenIds.length;
    this.#numTokens = promptTokenIds.length;
    this.#tokenIds = new Int32Array(promptTokenIds.length + 16);
    this.#tokenIds.set(promptTokenIds);
  }

  /** Prompt and output tokens. */
  get numTokens(): number {
    return this.#numTokens;
  }

  get numOutputTokens(): number {
    return this.#numTokens - this.promptLength;
  }

  /** Prompt and output tokens when it ends by length. */
  get maxNumTokens(): number {
    return this.promptLength + this.stop.maxTokens;
  }

  /** int32 [numTokens], a view that is valid until the next token. */
  get tokenIds(): Int32Array {
    return this.#tokenIds.subarray(0, this.#numTokens);
  }

  append(token: number): void {
    assert(this.#numTokens < this.maxNumTokens, "a sequence stays within its maximal length");
    if (this.#numTokens === this.#tokenIds.length) {
      const grown = new Int32Array(2 * this.#numTokens);
      grown.set(this.#tokenIds);
      this.#tokenIds = grown;
    }
    this.#tokenIds[this.#numTokens++] = token;
  }
}
