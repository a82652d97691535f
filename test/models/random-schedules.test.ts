import { describe, expect, it } from "vitest";
import { BlockManager } from "../../lib/cache/block-manager.js";
import type { Executor } from "../../lib/engine/executor.js";
import { greedySampling } from "../../lib/sampling/sampling-params.js";
import { Batch } from "../../lib/scheduler/batch.js";
import { byPriority } from "../../lib/scheduler/policy.js";
import { Scheduler, type SchedulerOptions } from "../../lib/scheduler/scheduler.js";
import { Sequence, type SequenceOptions } from "../../lib/scheduler/sequence.js";
import { executorKinds, type ExecutorKind } from "../support/executors.js";
import { goldenMaxTokens, loadGolden, type Golden } from "../support/golden.js";
import { createRandom, type Random } from "../support/random.js";

const numSchedules = 12;

// Other devices may choose their kernels by the batch.
const kinds = (await executorKinds()).filter(({ name, mayLackOps }) => {
  return name !== "reference" && !mayLackOps;
});

/** As test/scheduler/schedules.test.ts, but with a real model: forks, copies, hits and preemptions give the same bits. */
describe.each(kinds)("random schedules of llama on $name", (kind) => {
  it("give each sequence the tokens that it has alone", { timeout: 120_000 }, async () => {
    const golden = await loadGolden("hf-tiny/llama");
    for (let seed = 0; seed < numSchedules; seed++) {
      const random = createRandom(seed);
      const blockSize = [1, 3, 8, 16, 32, 64][seed % 6]!;
      const shape = { blockSize, numBlocks: Math.ceil(250 / blockSize) + 2 };
      await using machine = await Machine.create(kind, golden, shape, {
        maxBatchTokens: goldenMaxTokens,
        maxSequences: 4,
        maxChunkTokens: 1 + random.integer(40),
        policy: byPriority,
      });
      for (let i = 0; i < 60; i++) await act(machine, random);
      while (await machine.step());
      expect(machine.blocks.numFreeBlocks).toBe(machine.blocks.numUsableBlocks);
      for (const [sequence, start] of [...machine.starts])
        await checkAlone(machine, sequence, start);
    }
  });
});

class Machine implements AsyncDisposable {
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
  ): Promise<Machine> {
    const maxRequests = options.maxSequences;
    const executor = await kind.create({ plan, weights, checkpoint, kv, maxRequests });
    return new Machine(executor, options);
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

async function act(machine: Machine, random: Random): Promise<void> {
  const action = random.integer(10);
  const live = [...machine.starts.keys()].filter(({ status }) => status !== "finished");
  const sequence = live[random.integer(Math.max(1, live.length))];
  if (action < 2) addRandom(machine, random);
  else if (action === 2 && sequence !== undefined) forkRandom(machine, sequence, random);
  else if (action === 3 && sequence !== undefined) machine.scheduler.abort(sequence);
  else await machine.step();
}

function addRandom(machine: Machine, random: Random): void {
  const length = 1 + random.integer(70);
  const promptTokenIds = Array.from({ length }, (_, i) => (i * 37 + 5) % 512);
  if (random.integer(2) === 0) promptTokenIds[random.integer(length)] = random.integer(512);
  const maxTokens = 1 + random.integer(12);
  machine.add({
    promptTokenIds,
    stop: stopAfter(maxTokens),
    sampling: sampling(random),
    priority: random.integer(3),
  });
}

function forkRandom(machine: Machine, parent: Sequence, random: Random): void {
  const numTokens = parent.numTokens - random.integer(Math.min(3, parent.numOutputTokens + 1));
  const maxTokens = numTokens - parent.promptLength + 1 + random.integer(10);
  const child = machine.scheduler.fork(parent, {
    id: machine.starts.size,
    stop: stopAfter(maxTokens),
    sampling: sampling(random),
    numTokens,
  });
  machine.starts.set(child, child.numTokens);
}

/** The same tokens from the same beginning, in one chunk, without company and without a cache. */
async function checkAlone(machine: Machine, sequence: Sequence, start: number): Promise<void> {
  const drawn = sequence.numTokens - start;
  if (drawn === 0) return;
  machine.blocks.resetPrefixCache();
  const alone = machine.add({
    promptTokenIds: sequence.tokenIds.slice(0, start),
    stop: stopAfter(drawn),
    sampling: sequence.sampling,
  });
  while (await machine.step());
  expect([...alone.tokenIds]).toEqual([...sequence.tokenIds]);
}

function sampling(random: Random) {
  const seed = [random.integer(1000), 0] as const;
  return { ...greedySampling, temperature: random.integer(2), seed };
}

function stopAfter(maxTokens: number) {
  return { maxTokens, eosTokenIds: new Set<number>(), stopTokenIds: new Set<number>() };
}
