import { BlockManager } from "../../lib/cache/block-manager.js";
import { Batch } from "../../lib/scheduler/batch.js";
import {
  Scheduler,
  type ScheduledStep,
  type SchedulerOptions,
} from "../../lib/scheduler/scheduler.js";
import { Sequence } from "../../lib/scheduler/sequence.js";
import { FakeExecutor, type FakeExecutorOptions } from "./fake-executor.js";

export interface SimulationOptions extends FakeExecutorOptions {
  readonly scheduler?: Partial<SchedulerOptions>;
}

/** Scheduler, cache and batch over the fake executor, one synchronous step at a time. */
export class Simulation {
  readonly fake: FakeExecutor;
  readonly blocks: BlockManager;
  readonly scheduler: Scheduler;
  readonly sequences: Sequence[] = [];
  /** Output of each sequence, by id; ends with the reason. */
  readonly ended: Map<number, string> = new Map();
  steps = 0;
  readonly #batch: Batch;
  readonly #budget: number;

  constructor(options: SimulationOptions = {}) {
    const { scheduler = {}, ...fake } = options;
    this.fake = new FakeExecutor({ vocabSize: 1000, ...fake });
    const { maxTokens, maxRequests } = this.fake.limits;
    this.blocks = new BlockManager(this.fake.limits);
    this.#budget = scheduler.maxBatchTokens ?? maxTokens;
    this.scheduler = new Scheduler(this.blocks, {
      maxBatchTokens: maxTokens,
      maxSequences: maxRequests,
      ...scheduler,
    });
    this.#batch = new Batch(this.blocks);
  }

  /** Queues a sequence that ends after `maxTokens`, or at token `eos`. */
  add(prompt: readonly number[], maxTokens: number, eos: readonly number[] = []): Sequence {
    const sequence = new Sequence({
      id: this.sequences.length,
      promptTokenIds: prompt,
      stop: { maxTokens, eosTokenIds: new Set(eos), stopTokenIds: new Set() },
    });
    this.scheduler.add(sequence);
    this.sequences.push(sequence);
    return sequence;
  }

  /** Schedules, executes and commits; `during` runs while the step does. False when there is nothing to run. */
  step(during?: (step: ScheduledStep) => void): boolean {
    const step = this.scheduler.schedule();
    if (step === undefined) return false;
    this.steps++;
    this.#check(step);
    const output = this.fake.compute(this.#batch.pack(step));
    during?.(step);
    for (const { sequence, finishReason } of this.scheduler.commit(step, output)) {
      if (finishReason !== undefined) this.ended.set(sequence.id, finishReason);
    }
    this.blocks.check(this.sequences.map(({ blockTable }) => blockTable));
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

  #check({ sequences, numTokens, numOutputs }: ScheduledStep): void {
    const tokens = sequences.reduce((sum, scheduled) => sum + scheduled.numTokens, 0);
    if (tokens !== numTokens || numTokens > this.#budget) throw new Error("the budget is kept");
    if (sequences.some((scheduled) => scheduled.numTokens < 1)) throw new Error("an empty chunk");
    if (sequences.filter(({ isSampled }) => isSampled).length !== numOutputs)
      throw new Error("outputs");
    const ids = sequences.map(({ sequence }) => sequence.id);
    if (new Set(ids).size !== ids.length) throw new Error("a sequence is scheduled twice");
    if (ids.some((id, i) => i > 0 && id < ids[i - 1]!))
      throw new Error("older sequences come first");
    const isIdle = this.sequences.some(
      (sequence) => sequence.status === "running" && !ids.includes(sequence.id),
    );
    if (isIdle) throw new Error("a running sequence is left out of a step");
    const oldest = this.sequences.find(({ status }) => status !== "finished" && status !== "new");
    if (oldest!.id !== ids[0]) throw new Error("the oldest sequence is left out of a step");
  }
}

/** A prompt of `length` tokens that differs from others by `salt`. */
export function promptOf(length: number, salt = 0): number[] {
  return Array.from({ length }, (_, i) => (i * 7 + salt * 31 + 1) % 256);
}
