import { describe, expect, it } from "vitest";
import { byPriority } from "../../lib/scheduler/policy.js";
import { greedySampling as greedy } from "../../lib/sampling/sampling-params.js";
import type { Sequence } from "../../lib/scheduler/sequence.js";
import type { KvGroup } from "../../lib/graph/plan.js";
import { createRandom, type Random } from "../support/random.js";
import { Simulation } from "../support/simulate.js";

/** Schedules that are tried. */
const numSchedules = Number(process.env["PAGODA_SCHEDULES"] ?? 500);

/**
 * Arrivals, forks, aborts between and during steps, tiny pools, chunks of 1 to 512 tokens, blocks of 1 to 64, shared
 * beginnings, salts, priorities, pins, KV groups: whatever the schedule, each token is the one that its own sequence has alone. The
 * fake executor reads each context back through the block table.
 */
describe("random schedules", () => {
  it(`give each sequence the tokens that it has alone, ${numSchedules} times`, () => {
    let numHits = 0;
    let numPreemptions = 0;
    let numForks = 0;
    for (let seed = 0; seed < numSchedules; seed++) {
      const random = createRandom(seed);
      const load = new Load(random);
      for (let i = 0; i < 60; i++) load.act();
      load.finish();
      numHits += load.simulation.blocks.prefixStatistics.hitTokens;
      numPreemptions += load.simulation.scheduler.numPreemptions;
      numForks += load.numForks;
    }
    expect(numHits).toBeGreaterThan(50 * numSchedules);
    expect(numPreemptions).toBeGreaterThan(numSchedules / 2);
    expect(numForks).toBeGreaterThan(numSchedules);
  });
});

/** Mostly one without a window; else windows of 1 to 40 tokens with or without a group that sees all. */
function groupsOf(random: Random): readonly KvGroup[] {
  const windowed = (): KvGroup => ({ slidingWindow: 1 + random.integer(40) });
  const full = { slidingWindow: 0 };
  const kinds = [[full], [full], [windowed()], [full, windowed()], [windowed(), full, windowed()]];
  return kinds[random.integer(kinds.length)]!;
}

class Load {
  readonly simulation: Simulation;
  numForks = 0;
  readonly #random: Random;
  readonly #maxChunk: number;

  constructor(random: Random) {
    this.#random = random;
    const blockSize = 1 + random.integer(2 ** (1 + random.integer(6)));
    const kvGroups = groupsOf(random);
    const numBlocks = 1 + kvGroups.length * Math.ceil((15 + random.integer(120)) / blockSize);
    const maxRequests = 1 + random.integer(8);
    const maxTokens = 1 + random.integer(2 ** (1 + random.integer(9)));
    const maxChunkTokens = 1 + random.integer(2 ** (1 + random.integer(9)));
    this.#maxChunk = Math.min(maxChunkTokens, maxTokens);
    this.simulation = new Simulation({
      numBlocks,
      blockSize,
      kvGroups,
      maxTokens,
      maxRequests,
      maxOutputs: maxRequests,
      cache: { prefixSharing: random.integer(5) > 0 },
      scheduler: {
        maxChunkTokens,
        ...(random.integer(2) === 0 && { policy: byPriority }),
      },
    });
  }

  act(): void {
    const action = this.#random.integer(20);
    if (action < 4) this.#add();
    else if (action < 6) this.#fork();
    else if (action === 6) this.#abort();
    else if (action === 7) this.simulation.step(() => this.#abort());
    else if (action === 8) this.#pin();
    else this.simulation.step();
  }

  finish(): void {
    const { simulation } = this;
    simulation.run();
    for (const sequence of simulation.sequences) this.#check(sequence);
    simulation.blocks.resetPrefixCache();
    expect(simulation.blocks.numFreeBlocks).toBe(simulation.blocks.numUsableBlocks);
    expect(simulation.blocks.numSharedBlocks).toBe(0);
  }

  #add(): void {
    const random = this.#random;
    const prompt = Array.from({ length: 1 + random.integer(60) }, (_, i) => i % 7);
    if (random.integer(2) === 0) prompt[random.integer(prompt.length)] = 100 + random.integer(3);
    const maxTokens = 1 + random.integer(20);
    if (!this.#fits(prompt.length + maxTokens)) return;
    this.simulation.add(prompt, maxTokens, [], {
      priority: random.integer(3) - 1,
      sampling: this.#sampling(),
      ...(random.integer(6) === 0 && { cacheSalt: "tenant" }),
    });
  }

  /** Sometimes of fewer tokens than the parent has, or with tokens that were never drawn. */
  #fork(): void {
    const parent = this.#pick(({ status }) => status === "running" || status === "waiting");
    if (parent === undefined) return;
    const random = this.#random;
    const numTokens = parent.numTokens - random.integer(Math.min(4, parent.numOutputTokens + 1));
    const tokenIds = random.integer(3) === 0 ? [300 + random.integer(3)] : [];
    const numOutput = numTokens + tokenIds.length - parent.promptLength;
    const maxTokens = numOutput + 1 + random.integer(10);
    if (!this.#fits(parent.promptLength + maxTokens)) return;
    const child = this.simulation.fork(parent, maxTokens, {
      numTokens,
      tokenIds,
      sampling: this.#sampling(),
    });
    this.#given.set(child, child.numTokens);
    this.numForks++;
  }

  #fits(numTokens: number): boolean {
    const { blocks } = this.simulation;
    return blocks.peakBlocks(numTokens, this.#maxChunk) <= blocks.numUsableBlocks;
  }

  #abort(): void {
    const victim = this.#pick(({ status }) => status !== "finished");
    if (victim !== undefined) this.simulation.scheduler.abort(victim);
  }

  #pin(): void {
    const sequence = this.#pick(() => true);
    if (sequence !== undefined) this.simulation.blocks.pin(sequence.tokenIds);
  }

  #sampling() {
    const seed = [this.#random.integer(100), 0] as const;
    return { ...greedy, temperature: this.#random.integer(2), seed };
  }

  #pick(suits: (sequence: Sequence) => boolean): Sequence | undefined {
    const candidates = this.simulation.sequences.filter(suits);
    return candidates[this.#random.integer(candidates.length)];
  }

  /** Tokens that a fork was given and did not draw itself. */
  readonly #given: Map<Sequence, number> = new Map();

  #check(sequence: Sequence): void {
    const tokens = [...sequence.tokenIds];
    const { temperature, seed } = sequence.sampling;
    const start = this.#given.get(sequence) ?? sequence.promptLength;
    for (let position = start; position < tokens.length; position++) {
      const context = tokens.slice(0, position);
      const expected = this.simulation.fake.nextToken(context, { temperature, seed, position });
      if (tokens[position] !== expected) throw new Error(`a wrong token at ${position}`);
    }
  }
}
