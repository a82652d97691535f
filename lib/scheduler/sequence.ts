import { checkInteger } from "../arguments.js";
import { BlockTable } from "../cache/block-table.js";
import type { PrefixNode } from "../cache/prefix-cache.js";
import { argumentError, assert } from "../errors.js";
import { greedySampling, type SamplingParams } from "../sampling/sampling-params.js";
import type { StopConditions } from "../sampling/stop.js";
import { priorityRange } from "./policy.js";

export interface SequenceOptions {
  /** Unique among the sequences of a scheduler. */
  readonly id: number;
  /** At least one token. Copied. */
  readonly promptTokenIds: ArrayLike<number>;
  readonly stop: StopConditions;
  /** @default greedy */
  readonly sampling?: SamplingParams;
  /** Smaller is more urgent; an integer in [-2^20, 2^20]. @default 0 */
  readonly priority?: number;
  /** Only sequences with the same salt share cached blocks. @default none */
  readonly cacheSalt?: string | undefined;
  /** Whether it goes on as forks of it, which its owner makes whenever a token was drawn. @default false */
  readonly isBranching?: boolean;
}

/** How a fork differs from its parent. */
export interface ForkOptions extends Pick<
  SequenceOptions,
  "id" | "stop" | "sampling" | "isBranching"
> {
  /** Leading tokens of the parent that it keeps, at least its prompt. @default all */
  readonly numTokens?: number;
  /** Tokens behind them. @default none */
  readonly tokenIds?: ArrayLike<number>;
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
  readonly priority: number;
  /** A drawn token is not appended: the sequence is held until its owner replaces it. */
  readonly isBranching: boolean;
  readonly blockTable: BlockTable;
  /** Place in the order of service, once it was added: see {@link Policy}. */
  rank = 0;
  status: SequenceStatus = "new";
  /** A token was drawn, and nothing is left to do until the owner replaces it. */
  isHeld = false;
  /** Leading tokens whose K and V are in the cache. */
  numComputedTokens = 0;
  numPreemptions = 0;
  /** Kept by the block manager: a sequence that waits is looked up in every step. */
  readonly prefixNodes: PrefixNode[] = [];
  /** Tokens that were found in the prefix cache when it ran for the first time. */
  numCachedTokens = 0;
  #numTokens: number;
  /** Grows; the first `#numTokens` are used. */
  #tokenIds: Int32Array;

  constructor(options: SequenceOptions) {
    const { id, promptTokenIds, stop, sampling = greedySampling, priority = 0 } = options;
    if (promptTokenIds.length === 0) {
      throw argumentError("promptTokenIds", "at least one token", promptTokenIds);
    }
    this.id = id;
    this.stop = stop;
    this.sampling = sampling;
    this.priority = checkInteger("priority", priority, priorityRange);
    this.isBranching = options.isBranching ?? false;
    this.blockTable = new BlockTable(options.cacheSalt);
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

  /** A new sequence with this one's prompt and output, as it is now. The scheduler gives it its blocks. */
  fork({ numTokens = this.#numTokens, tokenIds = [], ...options }: ForkOptions): Sequence {
    const range = { min: this.promptLength, max: this.#numTokens };
    checkInteger("numTokens", numTokens, range);
    const room = this.promptLength + options.stop.maxTokens - numTokens;
    if (tokenIds.length >= room) throw argumentError("tokenIds", `fewer than ${room}`, tokenIds);
    const { priority } = this;
    const { cacheSalt } = this.blockTable;
    const promptTokenIds = this.tokenIds.subarray(0, this.promptLength);
    const child = new Sequence({ ...options, promptTokenIds, priority, cacheSalt });
    child.rank = this.rank;
    child.numCachedTokens = this.numCachedTokens;
    for (let i = this.promptLength; i < numTokens; i++) child.append(this.#tokenIds[i]!);
    for (let i = 0; i < tokenIds.length; i++) child.append(tokenIds[i]!);
    return child;
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
