import { BlockManager, type BlockManagerOptions } from "../../lib/cache/block-manager.js";
import { Batch } from "../../lib/scheduler/batch.js";
import {
  Scheduler,
  type DrawnToken,
  type ScheduledStep,
  type SchedulerOptions,
} from "../../lib/scheduler/scheduler.js";
import { isBefore } from "../../lib/scheduler/rank.js";
import { Sequence, type ForkOptions, type SequenceOptions } from "../../lib/scheduler/sequence.js";
import { FakeExecutor, type FakeExecutorOptions } from "./fake-executor.js";

export interface SimulationOptions extends FakeExecutorOptions {
  readonly scheduler?: Partial<SchedulerOptions>;
  readonly cache?: Partial<BlockManagerOptions>;
}

/** How a sequence differs from a greedy one of priority 0. */
export type SequenceVariant = Pick<
  SequenceOptions,
  "sampling" | "priority" | "cacheSalt" | "isBranching"
>;

/** Scheduler, cache and batch over the fake executor, one synchronous step at a time. */
export class Simulation {
  readonly fake: FakeExecutor;
  readonly blocks: BlockManager;
  readonly scheduler: Scheduler;
  readonly sequences: Sequence[] = [];
  /** Output of each sequence, by id; ends with the reason. */
  readonly ended: Map<number, string> = new Map();
  steps = 0;
  /** By the last step. */
  drawn: readonly DrawnToken[] = [];
  readonly #batch: Batch;
  readonly #budget: number;
  /** Then those that wait stand behind all that run. Not so for forks that have to wait. */
  #isFcfs: boolean;

  constructor(options: SimulationOptions = {}) {
    const { scheduler = {}, cache = {}, ...fake } = options;
    this.fake = new FakeExecutor({ vocabSize: 1000, ...fake });
    const { maxTokens, maxRequests } = this.fake.limits;
    this.blocks = new BlockManager({ ...this.fake.limits, ...cache });
    this.#isFcfs = scheduler.policy === undefined;
    this.#budget = scheduler.maxBatchTokens ?? maxTokens;
    this.scheduler = new Scheduler(this.blocks, {
      maxBatchTokens: maxTokens,
      maxSequences: maxRequests,
      ...scheduler,
    });
    this.#batch = new Batch(this.blocks);
  }

  /** Queues a sequence that ends after `maxTokens`, or at token `eos`. */
  add(
    prompt: readonly number[],
    maxTokens: number,
    eos: readonly number[] = [],
    variant: SequenceVariant = {},
  ): Sequence {
    const sequence = new Sequence({
      id: this.sequences.length,
      promptTokenIds: prompt,
      stop: { maxTokens, eosTokenIds: new Set(eos), stopTokenIds: new Set() },
      ...variant,
    });
    this.scheduler.add(sequence);
    this.sequences.push(sequence);
    return sequence;
  }

  /** Adds a copy of a sequence that may differ in its end and its sampling. */
  fork(
    parent: Sequence,
    maxTokens: number,
    options: Omit<ForkOptions, "id" | "stop"> = {},
  ): Sequence {
    const id = this.sequences.length;
    const child = this.scheduler.fork(parent, {
      id,
      stop: { maxTokens, eosTokenIds: new Set(), stopTokenIds: new Set() },
      ...options,
    });
    this.sequences.push(child);
    this.#isFcfs = false;
    return child;
  }

  /** Adds a group of one sequence, which is replaced by forks whenever all of the group were drawn for. */
  addBranching(prompt: readonly number[], maxTokens: number): Sequence {
    this.#isFcfs = false;
    return this.add(prompt, maxTokens, [], { isBranching: true });
  }

  /** Replaces sequences by branching forks of `parents`, each with one token more. */
  replace(
    group: readonly Sequence[],
    forks: readonly { readonly parent: Sequence; readonly token: number }[],
  ): Sequence[] {
    const { stop } = group[0]!;
    const children = this.scheduler.replace(
      group,
      forks.map(({ parent, token }, i) => {
        const id = this.sequences.length + i;
        return { parent, options: { id, stop, tokenIds: [token], isBranching: true } };
      }),
    );
    this.sequences.push(...children);
    this.#checkBlocks();
    return children;
  }

  /** Schedules, executes and commits; `during` runs while the step does. False when there is nothing to run. */
  step(during?: (step: ScheduledStep) => void): boolean {
    const step = this.scheduler.schedule();
    if (step === undefined) return false;
    this.steps++;
    this.#check(step);
    const output = this.fake.compute(this.#batch.pack(step));
    during?.(step);
    this.drawn = this.scheduler.commit(step, output);
    for (const { sequence, finishReason } of this.drawn) {
      if (finishReason !== undefined) this.ended.set(sequence.id, finishReason);
    }
    this.#checkBlocks();
    return true;
  }

  /** Steps until nothing is left; throws after `maxSteps`. */
  run(maxSteps = 10_000): void {
    while (this.step()) if (this.steps > maxSteps) throw new Error("livelock");
    const { numRunning, numWaiting } = this.scheduler;
    if (numRunning + numWaiting > 0) throw new Error("sequences are left, but no step for them");
  }

  output(sequence: Sequence): number[] {
    return [...sequence.tokenIds.subarray(sequence.promptLength)];
  }

  #checkBlocks(): void {
    this.blocks.check(this.sequences.map(({ blockTable }) => blockTable));
  }

  #check({ sequences, numTokens, numOutputs }: ScheduledStep): void {
    const tokens = sequences.reduce((sum, scheduled) => sum + scheduled.numTokens, 0);
    if (tokens !== numTokens || numTokens > this.#budget) throw new Error("the budget is kept");
    if (sequences.some((scheduled) => scheduled.numTokens < 1)) throw new Error("an empty chunk");
    if (sequences.filter(({ isSampled }) => isSampled).length !== numOutputs)
      throw new Error("outputs");
    const scheduled = sequences.map(({ sequence }) => sequence);
    if (new Set(scheduled).size !== scheduled.length) throw new Error("scheduled twice");
    const breaks = scheduled.filter((one, i) => i > 0 && isBefore(one, scheduled[i - 1]!));
    if (breaks.length > (this.#isFcfs ? 0 : 1)) throw new Error("the order of service is kept");
    this.#checkLeftOut(scheduled, numTokens);
  }

  /** Who runs but is not scheduled stands behind the others, and the budget is spent. */
  #checkLeftOut(scheduled: readonly Sequence[], numTokens: number): void {
    const first = this.sequences.reduce<Sequence | undefined>((first, sequence) => {
      const isRunning = sequence.status === "running" && !sequence.isHeld;
      const counts = isRunning || (this.#isFcfs && sequence.status === "waiting");
      return counts && (first === undefined || isBefore(sequence, first)) ? sequence : first;
    }, undefined);
    if (!scheduled.includes(first!)) throw new Error("the first sequence is left out of a step");
    const isIdle = this.sequences.some(
      (sequence) =>
        sequence.status === "running" && !sequence.isHeld && !scheduled.includes(sequence),
    );
    if (isIdle && numTokens < this.#budget) throw new Error("a running sequence is left out");
  }
}

/** A prompt of `length` tokens that differs from others by `salt`. */
export function promptOf(length: number, salt = 0): number[] {
  return Array.from({ length }, (_, i) => (i * 7 + salt * 31 + 1) % 256);
}
