import { describe, expect, it } from "vitest";
import { peakBlocks } from "../../lib/cache/kv-window.js";
import { greedySampling } from "../../lib/sampling/sampling-params.js";
import { byPriority } from "../../lib/scheduler/policy.js";
import type { Sequence } from "../../lib/scheduler/sequence.js";
import { executorKinds, type ExecutorKind } from "../support/executors.js";
import { goldenMaxTokens, loadGolden, type Golden } from "../support/golden.js";
import { ModelMachine } from "../support/model-machine.js";
import { createRandom, type Random } from "../support/random.js";

const numSchedules = 12;
/** Of a sequence. */
const maxTokens = 100;

// Other devices may choose their kernels by the batch.
const kinds = (await executorKinds()).filter(({ name, mayLackOps }) => {
  return name !== "reference" && !mayLackOps;
});

// One KV group that sees all, one with a window, a group that sees all beside five with a window of 16 tokens, and latents.
const models = ["hf-tiny/llama", "hf-tiny/mistral-swa", "hf-tiny/gemma3", "hf-tiny/deepseek-v3"];
const cases = models.flatMap((model) => kinds.map((kind) => ({ model, name: kind.name, kind })));

/** As test/scheduler/schedules.test.ts, but with a real model: forks, copies, hits and preemptions give the same bits. */
describe.each(cases)("random schedules of $model on $name", ({ model, kind }) => {
  it("give each sequence the tokens that it has alone", { timeout: 120_000 }, async () => {
    const golden = await loadGolden(model);
    const counts = { hits: 0, preemptions: 0 };
    for (let seed = 0; seed < numSchedules; seed++) await runSchedule(kind, golden, seed, counts);
    expect(counts.hits).toBeGreaterThan(100 * numSchedules);
    expect(counts.preemptions).toBeGreaterThan(numSchedules / 2);
  });
});

async function runSchedule(
  kind: ExecutorKind,
  golden: Golden,
  seed: number,
  counts: { hits: number; preemptions: number },
): Promise<void> {
  const random = createRandom(seed);
  const blockSize = [1, 3, 8, 16, 32, 64][seed % 6]!;
  const maxChunkTokens = 1 + random.integer(40);
  // Every second pool holds hardly more than the longest sequence.
  const numTokens = seed % 2 === 0 ? 250 : maxTokens;
  const { kvGroups } = golden.plan;
  const numBlocks = 2 + peakBlocks(kvGroups, blockSize, numTokens, maxChunkTokens);
  await using machine = await ModelMachine.create(
    kind,
    golden,
    { blockSize, numBlocks },
    { maxBatchTokens: goldenMaxTokens, maxSequences: 4, maxChunkTokens, policy: byPriority },
  );
  for (let i = 0; i < 60; i++) await act(machine, random);
  while (await machine.step());
  expect(machine.blocks.numFreeBlocks).toBe(machine.blocks.numUsableBlocks);
  counts.hits += machine.blocks.prefixStatistics.hitTokens;
  counts.preemptions += machine.scheduler.numPreemptions;
  for (const [sequence, start] of [...machine.starts]) await checkAlone(machine, sequence, start);
}

async function act(machine: ModelMachine, random: Random): Promise<void> {
  const action = random.integer(10);
  const live = [...machine.starts.keys()].filter(({ status }) => status !== "finished");
  const sequence = live[random.integer(Math.max(1, live.length))];
  if (action < 2) addRandom(machine, random);
  else if (action === 2 && sequence !== undefined) forkRandom(machine, sequence, random);
  else if (action === 3 && sequence !== undefined) machine.scheduler.abort(sequence);
  else await machine.step();
}

function addRandom(machine: ModelMachine, random: Random): void {
  const length = 1 + random.integer(70);
  const promptTokenIds = Array.from({ length }, (_, i) => (i * 37 + 5) % 512);
  if (random.integer(2) === 0) promptTokenIds[random.integer(length)] = random.integer(512);
  machine.add({
    promptTokenIds,
    stop: stopAfter(1 + random.integer(12)),
    sampling: sampling(random),
    priority: random.integer(3),
  });
}

function forkRandom(machine: ModelMachine, parent: Sequence, random: Random): void {
  const numTokens = parent.numTokens - random.integer(Math.min(3, parent.numOutputTokens + 1));
  const numOutputTokens = numTokens - parent.promptLength + 1 + random.integer(10);
  if (parent.promptLength + numOutputTokens > maxTokens) return;
  const child = machine.scheduler.fork(parent, {
    id: machine.starts.size,
    stop: stopAfter(numOutputTokens),
    sampling: sampling(random),
    numTokens,
  });
  machine.starts.set(child, child.numTokens);
}

/** The same tokens from the same beginning, in one chunk, without company and without a cache. */
async function checkAlone(machine: ModelMachine, sequence: Sequence, start: number): Promise<void> {
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
