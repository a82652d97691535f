import { BlockManager } from "../../lib/cache/block-manager.js";
import type { Executor } from "../../lib/engine/executor.js";
import { Batch } from "../../lib/scheduler/batch.js";
import { Scheduler, type SchedulerOptions } from "../../lib/scheduler/scheduler.js";
import { Sequence, type SequenceOptions } from "../../lib/scheduler/sequence.js";
import type { ExecutorKind } from "./executors.js";
import type { Golden } from "./golden.js";

/** Scheduler and cache over a real model, one step at a time. All invariants are checked after each. */
export class ModelMachine implements AsyncDisposable {
  readonly blocks: BlockManager;
  readonly scheduler: Scheduler;
  readonly executor: Executor;
  /** How many tokens each sequence was given. */
  readonly starts: Map<Sequence, number> = new Map();
  readonly #batch: Batch;

  static async create(
    kind: ExecutorKind,
    { plan, weights, checkpoint }: Golden,
    kv: { blockSize: number; numBlocks: number },
    options: SchedulerOptions,
  ): Promise<ModelMachine> {
    const maxRequests = options.maxSequences;
    const executor = await kind.create({ plan, weights, checkpoint, kv, maxRequests });
    return new ModelMachine(executor, options);
  }

  constructor(executor: Executor, options: SchedulerOptions) {
    this.executor = executor;
    this.blocks = new BlockManager(executor.limits);
    this.scheduler = new Scheduler(this.blocks, options);
    this.#batch = new Batch(this.blocks);
  }

  add(options: Omit<SequenceOptions, "id">): Sequence {
    const sequence = new Sequence({ id: this.starts.size, ...options });
    this.scheduler.add(sequence);
    this.starts.set(sequence, sequence.numTokens);
    return sequence;
  }

  async step(): Promise<boolean> {
    const step = this.scheduler.schedule();
    if (step === undefined) return false;
    this.scheduler.commit(step, await this.executor.execute(this.#batch.pack(step)));
    this.blocks.check([...this.starts.keys()].map(({ blockTable }) => blockTable));
    return true;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.executor.close();
  }
}
