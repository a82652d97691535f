import { checkInteger } from "../arguments.js";
import type { BlockManager, CachedPrefix } from "../cache/block-manager.js";
import type { StepOutput } from "../engine/step.js";
import { argumentError, assert, PagodaError } from "../errors.js";
import { checkStop } from "../sampling/stop.js";
import { fcfs, type Policy } from "./policy.js";
import type { ForkOptions, Sequence } from "./sequence.js";
import { insertByRank, remove } from "./rank.js";
import {
  scheduledSequence,
  type DrawnToken,
  type ScheduledSequence,
  type ScheduledStep,
} from "./scheduled-step.js";

export type { DrawnToken, ScheduledSequence, ScheduledStep } from "./scheduled-step.js";

export interface SchedulerOptions {
  /** Tokens in one step at most: the token budget. */
  readonly maxBatchTokens: number;
  /** Sequences that run at the same time at most. */
  readonly maxSequences: number;
  /** Tokens of one sequence in one step at most. @default maxBatchTokens */
  readonly maxChunkTokens?: number;
  /** In which order sequences are served. @default {@link fcfs} */
  readonly policy?: Policy;
}

/** A sequence that goes on, or begins, as a copy of another one. */
export interface Fork {
  readonly parent: Sequence;
  readonly options: ForkOptions;
}

/**
 * Continuous batching as in vLLM V1: decides what each step runs. Pure: no I/O, time or randomness.
 *
 * Sequences are served in the order of their ranks, which a {@link Policy} gives them as they arrive; here "before" and
 * "behind" mean that order. `schedule` and `commit` alternate, one step at a time.
 *
 * Pins, such as those of sessions, cost no sequence anything: they are given up before one is preempted or has to wait.
 *
 * No sequence starves. Any one fits the pool alone (`add` refuses others), waiting sequences are admitted strictly in
 * order, and blocks are only ever taken from the last running one. So the first running sequence computes at least one
 * token in every step, and nothing that runs can keep the first waiting one waiting for longer than it takes to end.
 * With first come, first served (forks aside) the oldest sequence is always the first running one: a sequence ends within
 * as many steps as it and all before it may have tokens.
 *
 * Branching sequences, such as the beams of a beam search, wait for each other: each is held once its token was drawn,
 * until their owner replaces all of them by forks. Held ones keep their blocks, but where nothing else can run they are
 * preempted, so that the others of their group get theirs.
 */
export class Scheduler {
  readonly #blocks: BlockManager;
  readonly #policy: Policy;
  readonly #maxBatchTokens: number;
  readonly #maxSequences: number;
  readonly #maxChunkTokens: number;
  /** In order of service. */
  readonly #waiting: Sequence[] = [];
  /** In order of service. */
  readonly #running: Sequence[] = [];
  /** Sequences of the step that runs now. */
  readonly #inFlight: Set<Sequence> = new Set();
  #numArrivals = 0;
  #numPreemptions = 0;
  /** Since `takePreempted` or `commit`. */
  #preempted: Sequence[] = [];

  constructor(blocks: BlockManager, options: SchedulerOptions) {
    const positive = { min: 1, max: 2 ** 31 - 1 };
    const { maxBatchTokens, maxSequences, maxChunkTokens = maxBatchTokens } = options;
    this.#blocks = blocks;
    this.#policy = options.policy ?? fcfs;
    this.#maxBatchTokens = checkInteger("maxBatchTokens", maxBatchTokens, positive);
    this.#maxSequences = checkInteger("maxSequences", maxSequences, positive);
    const maxChunk = checkInteger("maxChunkTokens", maxChunkTokens, positive);
    this.#maxChunkTokens = Math.min(maxChunk, this.#maxBatchTokens);
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

  /** Those that were preempted since the last call or `commit`, once a preemption. */
  takePreempted(): Sequence[] {
    return this.#preempted.splice(0);
  }

  /**
   * Queues a sequence.
   *
   * @throws ERR_CONTEXT_LENGTH if it could not run to its maximal length even alone.
   */
  add(sequence: Sequence): void {
    this.#checkNew(sequence);
    sequence.rank = this.#policy(this.#numArrivals++, sequence.priority);
    this.#wait(sequence);
  }

  /**
   * Adds a copy of a sequence that waits or runs: the same tokens, but its own sampling and end. Only while no step
   * runs the parent. It shares all computed blocks, which are copied only when one of both writes to them, and has the rank
   * of its parent.
   * Where no more sequences may run, it waits without blocks and may find full ones in the prefix cache.
   *
   * @throws ERR_CONTEXT_LENGTH as `add`; ERR_ARGUMENT for a sequence that has ended, or more tokens than it may have
   */
  fork(parent: Sequence, options: ForkOptions): Sequence {
    const child = this.#child({ parent, options });
    this.#begin(child, parent);
    return child;
  }

  /**
   * Ends sequences and goes on with forks of them, as `fork`. The forks take their places, and blocks that these share are
   * not given back in between. A fork of a sequence that waits, waits.
   *
   * @throws as `fork`; nothing has changed then
   */
  replace(parents: readonly Sequence[], forks: readonly Fork[]): Sequence[] {
    const children = forks.map((fork) => this.#child(fork));
    for (const parent of parents) remove(this.#listOf(parent), parent);
    for (const [i, { parent }] of forks.entries()) this.#begin(children[i]!, parent);
    for (const parent of parents) {
      parent.status = "finished";
      this.#blocks.free(parent.blockTable);
    }
    return children;
  }

  /**
   * Ends a sequence early. Its blocks are free at once, or after `commit` if the step that runs now writes to them.
   * Nothing happens when it has already ended or was never added.
   */
  abort(sequence: Sequence): void {
    if (sequence.status === "finished" || sequence.status === "new") return;
    remove(this.#listOf(sequence), sequence);
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
    if (sequences.length === 0) return this.#retry(isAdmitting);
    let numOutputs = 0;
    for (const { sequence, isSampled } of sequences) {
      this.#inFlight.add(sequence);
      if (isSampled) numOutputs++;
    }
    const numTokens = this.#maxBatchTokens - budget;
    return { sequences, numTokens, numOutputs, blockCopies: this.#blocks.takeCopies() };
  }

  /** Takes the results of the step: draws advance their sequences, ended ones give their blocks back. */
  commit(step: ScheduledStep, { tokens, finite }: StepOutput): DrawnToken[] {
    this.#inFlight.clear();
    this.#preempted.length = 0; // whoever did not ask for them does not want them
    this.#blocks.finishStep();
    const drawn: DrawnToken[] = [];
    let row = 0;
    for (const { sequence, numTokens, isSampled } of step.sequences) {
      const output = isSampled ? row++ : undefined;
      sequence.numComputedTokens += numTokens;
      if (output !== undefined && finite[output] === 0) this.#blocks.forget(sequence.blockTable);
      else this.#blocks.markComputed(sequence.blockTable, sequence, numSettledTokens(sequence));
      if (sequence.status === "finished") {
        this.#blocks.free(sequence.blockTable); // aborted while the step ran
      } else if (output !== undefined) {
        drawn.push(this.#draw(sequence, tokens[output]!, finite[output]!));
      }
    }
    return drawn;
  }

  /** Ends all sequences and takes all blocks back. No step may be running any longer. */
  abortAll(): void {
    this.#blocks.finishStep();
    for (const sequence of this.#inFlight) this.#blocks.free(sequence.blockTable);
    this.#inFlight.clear();
    for (const sequence of [...this.#running, ...this.#waiting]) this.abort(sequence);
  }

  #listOf({ status }: Sequence): Sequence[] {
    return status === "waiting" ? this.#waiting : this.#running;
  }

  #child({ parent, options }: Fork): Sequence {
    assert(!this.#inFlight.has(parent), "a sequence is forked between its steps");
    if (parent.status !== "running" && parent.status !== "waiting") {
      throw argumentError("parent", "a sequence that waits or runs", parent.status);
    }
    const child = parent.fork(options);
    this.#checkNew(child);
    return child;
  }

  /** Begins a fork with its parent's blocks where it may run at once, and else without. */
  #begin(child: Sequence, parent: Sequence): void {
    const numShared = Math.min(parent.numComputedTokens, child.numTokens - 1);
    const isRunning = parent.status === "running" && this.#running.length < this.#maxSequences;
    if (!isRunning || !this.#blocks.canFork(parent.blockTable, numShared)) return this.#wait(child);
    child.numComputedTokens = numShared;
    this.#blocks.fork(parent.blockTable, child.blockTable, numShared);
    this.#start(child);
  }

  #checkNew(sequence: Sequence): void {
    if (sequence.status !== "new") {
      throw argumentError("sequence", "a sequence that was never added", sequence);
    }
    const needed = this.#blocks.peakBlocks(sequence.maxNumTokens, this.#maxChunkTokens);
    if (needed > this.#blocks.numUsableBlocks) throw tooLong(sequence, needed, this.#blocks);
  }

  #wait(sequence: Sequence): void {
    sequence.status = "waiting";
    insertByRank(this.#waiting, sequence);
  }

  #start(sequence: Sequence): void {
    sequence.status = "running";
    insertByRank(this.#running, sequence);
  }

  /** Gives every running sequence its next tokens, as far as budget and blocks reach. Returns the tokens spent. */
  #scheduleRunning(scheduled: ScheduledSequence[], budget: number): number {
    let spent = 0;
    for (let i = 0; i < this.#running.length && spent < budget; i++) {
      const sequence = this.#running[i]!;
      if (sequence.isHeld) continue;
      const numTokens = this.#chunk(sequence, budget - spent);
      if (!this.#allocateOrPreempt(sequence, numTokens)) break; // it was the last one
      scheduled.push(scheduledSequence(sequence, numTokens));
      spent += numTokens;
    }
    return spent;
  }

  /** Admits waiting sequences in order, until one does not fit. Returns the tokens spent. */
  #scheduleWaiting(scheduled: ScheduledSequence[], budget: number): number {
    if (this.#waiting.length === 0) return 0;
    let spent = 0;
    let unclaimed = this.#unclaimedBlocks();
    while (spent < budget && unclaimed > 0 && this.#running.length < this.#maxSequences) {
      const sequence = this.#waiting.find(({ isHeld }) => !isHeld);
      if (sequence === undefined) break;
      const prefix = this.#blocks.findPrefix(sequence, sequence.blockTable.cacheSalt);
      // All of it must fit, not only the first chunk: two half-computed prompts could else block each other.
      unclaimed -= this.#blocks.blocksToAdmit(sequence.numTokens, this.#maxChunkTokens, prefix);
      if (unclaimed < 0) {
        if (!this.#blocks.unpinOldest()) break;
        unclaimed = this.#unclaimedBlocks();
        continue;
      }
      remove(this.#waiting, sequence);
      this.#admit(sequence, prefix);
      const numTokens = this.#chunk(sequence, budget - spent);
      const isAllocated = this.#blocks.allocate(sequence.blockTable, numTokens);
      assert(isAllocated, "a chunk of a sequence that fits can be allocated");
      scheduled.push(scheduledSequence(sequence, numTokens));
      spent += numTokens;
    }
    return spent;
  }

  /** A sequence begins behind what the cache holds of it. */
  #admit(sequence: Sequence, prefix: CachedPrefix): void {
    this.#blocks.adopt(sequence.blockTable, prefix);
    sequence.numComputedTokens = prefix.numTokens;
    if (sequence.numPreemptions === 0) {
      sequence.numCachedTokens = prefix.numTokens;
      this.#blocks.recordLookup(sequence.numTokens, prefix.numTokens);
    }
    this.#start(sequence);
  }

  /** Nothing can run: held sequences, if any, give their blocks up, as they wait for others of their group. */
  #retry(isAdmitting: boolean): ScheduledStep | undefined {
    const held = this.#running.splice(0);
    for (const sequence of held) this.#preempt(sequence);
    return isAdmitting && held.length > 0 ? this.schedule() : undefined;
  }

  #chunk(sequence: Sequence, budget: number): number {
    const remaining = sequence.numTokens - sequence.numComputedTokens;
    return Math.min(remaining, this.#maxChunkTokens, budget);
  }

  /** Free blocks that running sequences do not need for tokens that they already have. */
  #unclaimedBlocks(): number {
    let unclaimed = this.#blocks.numFreeBlocks;
    for (const { blockTable, numTokens } of this.#running) {
      unclaimed -= this.#blocks.blocksToReach(blockTable, numTokens, this.#maxChunkTokens);
    }
    return unclaimed;
  }

  /**
   * Takes blocks while needed, from pins, oldest first, then from the last running sequences; false when that was the
   * sequence itself.
   */
  #allocateOrPreempt(sequence: Sequence, numTokens: number): boolean {
    while (!this.#blocks.allocate(sequence.blockTable, numTokens)) {
      if (this.#blocks.unpinOldest()) continue;
      const victim = this.#running.pop()!;
      this.#preempt(victim);
      if (victim === sequence) return false;
    }
    return true;
  }

  /** Its K and V are dropped and computed again later, output so far included, but for what the cache still holds. */
  #preempt(sequence: Sequence): void {
    this.#blocks.free(sequence.blockTable);
    sequence.numComputedTokens = 0;
    sequence.numPreemptions++;
    this.#wait(sequence);
    this.#numPreemptions++;
    this.#preempted.push(sequence);
  }

  #draw(sequence: Sequence, token: number, finite: number): DrawnToken {
    if (finite === 0) {
      this.abort(sequence);
      return { sequence, token, finishReason: "error" };
    }
    if (sequence.isBranching) {
      sequence.isHeld = true;
      return { sequence, token };
    }
    sequence.append(token);
    const finishReason = checkStop(token, sequence.numOutputTokens, sequence.stop);
    if (finishReason === undefined) return { sequence, token };
    this.abort(sequence);
    return { sequence, token, finishReason };
  }
}

/** A fork of a branching sequence may compute its last token again, so the blocks that this one sees are kept. */
function numSettledTokens({ isBranching, numComputedTokens }: Sequence): number {
  return isBranching ? numComputedTokens - 1 : numComputedTokens;
}

function tooLong(sequence: Sequence, needed: number, blocks: BlockManager): PagodaError {
  const { numUsableBlocks, blockSize } = blocks;
  return new PagodaError(
    "ERR_CONTEXT_LENGTH",
    `${sequence.maxNumTokens} tokens need ${needed} blocks of ${blockSize} tokens at once, but the KV cache has ${numUsableBlocks}`,
    { details: { tokens: sequence.maxNumTokens, blocks: needed, available: numUsableBlocks } },
  );
}
