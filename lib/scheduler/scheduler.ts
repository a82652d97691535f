import { checkInteger } from "../arguments.js";
import type { BlockManager } from "../cache/block-manager.js";
import type { StepOutput } from "../engine/step.js";
import { argumentError, assert, PagodaError } from "../errors.js";
import { checkStop } from "../sampling/stop.js";
import type { Sequence } from "./sequence.js";

export interface SchedulerOptions {
  /** Tokens in one step at most: the token budget. */
  readonly maxBatchTokens: number;
  /** Sequences that run at the same time at most. */
  readonly maxSequences: number;
  /** Tokens of one sequence in one step at most. @default maxBatchTokens */
  readonly maxChunkTokens?: number;
}

/** The next tokens of one sequence: from `numComputedTokens` on. */
export interface ScheduledSequence {
  readonly sequence: Sequence;
  readonly numTokens: number;
  /** Whether they reach the sequence's end, so that a token is drawn. */
  readonly isSampled: boolean;
}

/** What one step runs. */
export interface ScheduledStep {
  /** At least one; the oldest sequence first. */
  readonly sequences: readonly ScheduledSequence[];
  /** T, their tokens together. */
  readonly numTokens: number;
  /** S, how many of them are sampled. */
  readonly numOutputs: number;
}

/** A token that a step drew for a sequence. */
export interface DrawnToken {
  readonly sequence: Sequence;
  readonly token: number;
  /** Set where it is the last one; `error`: the logits were not finite, and the token does not count. */
  readonly finishReason?: "stop" | "length" | "error";
}

/**
 * Continuous batching as in vLLM V1: decides what each step runs. Pure: no I/O, time or randomness.
 *
 * Sequences are served first come, first served. `schedule` and `commit` alternate, one step at a time.
 *
 * No sequence starves: any one fits the pool alone (`add` refuses others), and blocks are only ever taken from a younger
 * sequence, so the oldest one advances in every step.
 */
export class Scheduler {
  readonly #blocks: BlockManager;
  readonly #maxBatchTokens: number;
  readonly #maxSequences: number;
  readonly #maxChunkTokens: number;
  /** Oldest first; preempted sequences are older than all others, thus in front. */
  readonly #waiting: Sequence[] = [];
  /** Oldest first. */
  readonly #running: Sequence[] = [];
  /** Sequences of the step that runs now. */
  readonly #inFlight: Set<Sequence> = new Set();
  #numPreemptions = 0;

  constructor(blocks: BlockManager, options: SchedulerOptions) {
    const positive = { min: 1, max: 2 ** 31 - 1 };
    const { maxBatchTokens, maxSequences, maxChunkTokens = maxBatchTokens } = options;
    this.#blocks = blocks;
    this.#maxBatchTokens = checkInteger("maxBatchTokens", maxBatchTokens, positive);
    this.#maxSequences = checkInteger("maxSequences", maxSequences, positive);
    this.#maxChunkTokens = checkInteger("maxChunkTokens", maxChunkTokens, positive);
  }

  get numWaiting(): number {
    return this.#waiting.length;
  }

  get numRunning(): number {
    return this.#running.length;
  }

  /** Preemptions so far. */
  get numPreemptions(): number {
    return this.#numPreemptions;
  }

  /**
   * Queues a sequence.
   *
   * @throws ERR_CONTEXT_LENGTH if it could not run to its maximal length even alone.
   */
  add(sequence: Sequence): void {
    if (sequence.status !== "new") {
      throw argumentError("sequence", "a sequence that was never added", sequence);
    }
    const needed = this.#blocks.blocksFor(sequence.maxNumTokens);
    if (needed > this.#blocks.numUsableBlocks) throw tooLong(sequence, needed, this.#blocks);
    sequence.status = "waiting";
    this.#waiting.push(sequence);
  }

  /**
   * Ends a sequence early. Its blocks are free at once, or after `commit` if the step that runs now writes to them.
   * Nothing happens when it has already ended or was never added.
   */
  abort(sequence: Sequence): void {
    if (sequence.status === "finished" || sequence.status === "new") return;
    remove(sequence.status === "waiting" ? this.#waiting : this.#running, sequence);
    sequence.status = "finished";
    if (!this.#inFlight.has(sequence)) this.#blocks.free(sequence.blockTable);
  }

  /**
   * Chooses the tokens of the next step: running sequences first, then waiting ones, under one token budget.
   * Undefined when there is nothing to run.
   *
   * @param isAdmitting - false keeps waiting sequences waiting
   */
  schedule(isAdmitting = true): ScheduledStep | undefined {
    assert(this.#inFlight.size === 0, "the previous step was committed");
    const sequences: ScheduledSequence[] = [];
    let budget = this.#maxBatchTokens;
    const preemptions = this.#numPreemptions;
    budget -= this.#scheduleRunning(sequences, budget);
    if (isAdmitting && this.#numPreemptions === preemptions) {
      budget -= this.#scheduleWaiting(sequences, budget);
    }
    for (const { sequence } of sequences) this.#inFlight.add(sequence);
    const numOutputs = sequences.filter(({ isSampled }) => isSampled).length;
    const numTokens = this.#maxBatchTokens - budget;
    return sequences.length === 0 ? undefined : { sequences, numTokens, numOutputs };
  }

  /** Takes the results of the step: draws advance their sequences, ended ones give their blocks back. */
  commit(step: ScheduledStep, { tokens, finite }: StepOutput): DrawnToken[] {
    this.#inFlight.clear();
    const drawn: DrawnToken[] = [];
    let row = 0;
    for (const { sequence, numTokens, isSampled } of step.sequences) {
      const output = isSampled ? row++ : undefined;
      if (sequence.status === "finished") {
        this.#blocks.free(sequence.blockTable); // aborted while the step ran
        continue;
      }
      sequence.numComputedTokens += numTokens;
      if (output !== undefined) drawn.push(this.#draw(sequence, tokens[output]!, finite[output]!));
    }
    return drawn;
  }

  /** Ends all sequences and takes all blocks back. No step may be running any longer. */
  abortAll(): void {
    for (const sequence of this.#inFlight) this.#blocks.free(sequence.blockTable);
    this.#inFlight.clear();
    for (const sequence of [...this.#running, ...this.#waiting]) this.abort(sequence);
  }

  /** Gives every running sequence its next tokens, as far as budget and blocks reach. Returns the tokens spent. */
  #scheduleRunning(scheduled: ScheduledSequence[], budget: number): number {
    let spent = 0;
    for (let i = 0; i < this.#running.length && spent < budget; i++) {
      const sequence = this.#running[i]!;
      const numTokens = this.#chunk(sequence, budget - spent);
      if (!this.#allocateOrPreempt(sequence, numTokens)) break; // it was the last one
      scheduled.push(scheduledSequence(sequence, numTokens));
      spent += numTokens;
    }
    return spent;
  }

  /** Admits waiting sequences in order, until one does not fit. Returns the tokens spent. */
  #scheduleWaiting(scheduled: ScheduledSequence[], budget: number): number {
    let spent = 0;
    let unclaimed = this.#unclaimedBlocks();
    while (spent < budget && this.#running.length < this.#maxSequences) {
      const sequence = this.#waiting[0];
      if (sequence === undefined) break;
      // All of it must fit, not only the first chunk: two half-computed prompts could else block each other.
      unclaimed -= this.#blocks.blocksFor(sequence.numTokens);
      if (unclaimed < 0) break;
      const numTokens = this.#chunk(sequence, budget - spent);
      const isAllocated = this.#blocks.allocate(sequence.blockTable, numTokens);
      assert(isAllocated, "a chunk of a sequence that fits can be allocated");
      this.#waiting.shift();
      this.#running.push(sequence);
      sequence.status = "running";
      scheduled.push(scheduledSequence(sequence, numTokens));
      spent += numTokens;
    }
    return spent;
  }

  #chunk(sequence: Sequence, budget: number): number {
    const remaining = sequence.numTokens - sequence.numComputedTokens;
    return Math.min(remaining, this.#maxChunkTokens, budget);
  }

  /** Free blocks that running sequences do not need for tokens that they already have. */
  #unclaimedBlocks(): number {
    let unclaimed = this.#blocks.numFreeBlocks;
    for (const { blockTable, numTokens } of this.#running) {
      unclaimed -= this.#blocks.blocksNeeded(blockTable, numTokens - blockTable.numTokens);
    }
    return unclaimed;
  }

  /** Takes blocks from the youngest running sequences while needed; false when that was the sequence itself. */
  #allocateOrPreempt(sequence: Sequence, numTokens: number): boolean {
    while (!this.#blocks.allocate(sequence.blockTable, numTokens)) {
      const victim = this.#running.pop()!;
      this.#preempt(victim);
      if (victim === sequence) return false;
    }
    return true;
  }

  /** Its K and V are dropped and computed again later, output so far included. */
  #preempt(sequence: Sequence): void {
    this.#blocks.free(sequence.blockTable);
    sequence.numComputedTokens = 0;
    sequence.numPreemptions++;
    sequence.status = "waiting";
    this.#waiting.unshift(sequence);
    this.#numPreemptions++;
  }

  #draw(sequence: Sequence, token: number, finite: number): DrawnToken {
    if (finite === 0) {
      this.abort(sequence);
      return { sequence, token, finishReason: "error" };
    }
    sequence.append(token);
    const finishReason = checkStop(token, sequence.numOutputTokens, sequence.stop);
    if (finishReason === undefined) return { sequence, token };
    this.abort(sequence);
    return { sequence, token, finishReason };
  }
}

function scheduledSequence(sequence: Sequence, numTokens: number): ScheduledSequence {
  const isSampled = sequence.numComputedTokens + numTokens === sequence.numTokens;
  return { sequence, numTokens, isSampled };
}

function remove(list: Sequence[], sequence: Sequence): void {
  const index = list.indexOf(sequence);
  assert(index >= 0, `sequence ${sequence.id} is in the list of its status`);
  list.splice(index, 1);
}

function tooLong(sequence: Sequence, needed: number, blocks: BlockManager): PagodaError {
  const { numUsableBlocks, blockSize } = blocks;
  return new PagodaError(
    "ERR_CONTEXT_LENGTH",
    `${sequence.maxNumTokens} tokens need ${needed} blocks of ${blockSize} tokens, but the KV cache has ${numUsableBlocks}`,
    { details: { tokens: sequence.maxNumTokens, blocks: needed, available: numUsableBlocks } },
  );
}
