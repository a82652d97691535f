import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { peakBlocks } from "../../lib/cache/kv-window.js";
import type { Sequence } from "../../lib/scheduler/sequence.js";
import { promptOf, Simulation } from "../support/simulate.js";

/** A made-up search: which contexts follow those of a round, given the token that was drawn for each. */
function nextRound<T>(
  members: readonly T[],
  tokens: readonly number[],
  width: number,
): { readonly parent: T; readonly token: number }[] {
  return Array.from({ length: width }, (_, i) => {
    const parent = (tokens[i % tokens.length]! + i) % members.length;
    return { parent: members[parent]!, token: (tokens[parent]! + i) % 1000 };
  });
}

/** A group of sequences in a simulation that are replaced by forks once all were drawn for. */
class Group {
  members: readonly Sequence[];
  readonly #simulation: Simulation;
  readonly #width: number;
  #rounds: number;
  readonly #drawn = new Map<Sequence, number>();

  constructor(simulation: Simulation, prompt: readonly number[], width: number, rounds: number) {
    this.#simulation = simulation;
    this.#width = width;
    this.#rounds = rounds;
    this.members = [simulation.addBranching(prompt, rounds + 1)];
  }

  /** Takes what the last step drew. */
  advance(): void {
    for (const { sequence, token } of this.#simulation.drawn) {
      if (this.members.includes(sequence)) this.#drawn.set(sequence, token);
    }
    if (this.#drawn.size < this.members.length || this.#rounds < 0) return;
    if (this.#rounds-- === 0) return this.end();
    const tokens = this.members.map((member) => this.#drawn.get(member)!);
    const forks = nextRound(this.members, tokens, this.#width);
    this.members = this.#simulation.replace(this.members, forks);
    this.#drawn.clear();
  }

  end(): void {
    for (const member of this.members) this.#simulation.scheduler.abort(member);
    this.#rounds = -1;
  }
}

/** The contexts that a group ends with when it is alone in the world. */
function expected(
  { fake }: Simulation,
  prompt: readonly number[],
  width: number,
  rounds: number,
): number[][] {
  let members = [[...prompt]];
  for (let round = 0; round < rounds; round++) {
    const tokens = members.map((context) => fake.nextToken(context));
    members = nextRound(members, tokens, width).map(({ parent, token }) => parent.concat(token));
  }
  return members;
}

const machine = fc.record({
  /** Blocks beyond those that one sequence needs. */
  spareBlocks: fc.integer({ min: 0, max: 32 }),
  kvGroups: fc.array(fc.record({ slidingWindow: fc.integer({ min: 0, max: 12 }) }), {
    minLength: 1,
    maxLength: 3,
  }),
  blockSize: fc.integer({ min: 4, max: 8 }),
  maxBatchTokens: fc.integer({ min: 1, max: 20 }),
  maxSequences: fc.integer({ min: 1, max: 8 }),
  prefixSharing: fc.boolean(),
});
const group = fc.record({
  prompt: fc.integer({ min: 1, max: 20 }),
  width: fc.integer({ min: 1, max: 6 }),
  rounds: fc.integer({ min: 1, max: 10 }),
  /** Steps after which it is aborted. */
  abortAt: fc.option(fc.integer({ min: 0, max: 12 }), { freq: 4 }),
});

/** Tokens of a sequence: prompt, rounds and the last draw. */
const longest = 20 + 10 + 1;

describe("groups of branching sequences", () => {
  it("end with the tokens that each has alone, on any machine, beside ordinary sequences", () => {
    fc.assert(
      fc.property(machine, fc.array(group, { minLength: 1, maxLength: 4 }), (limits, groups) => {
        const { maxBatchTokens, maxSequences, prefixSharing, kvGroups, blockSize } = limits;
        const peak = peakBlocks(kvGroups, blockSize, longest, maxBatchTokens);
        const pool = { numBlocks: 1 + peak + limits.spareBlocks, blockSize, kvGroups };
        const most = { maxTokens: maxBatchTokens, maxRequests: maxSequences };
        const simulation = new Simulation({
          ...pool,
          ...most,
          maxOutputs: maxSequences,
          scheduler: { maxBatchTokens, maxSequences },
          cache: { prefixSharing },
        });
        const live = groups.map(({ prompt, width, rounds }, i) => {
          if (i % 2 === 0) simulation.add(promptOf(5, 90 + i), 8);
          return new Group(simulation, promptOf(prompt, i), width, rounds);
        });
        for (let step = 0; simulation.step(); step++) {
          for (const [i, group] of live.entries()) {
            if (groups[i]!.abortAt === step) group.end();
            else group.advance();
          }
          if (step > 20_000) throw new Error("livelock");
        }
        const { numRunning, numWaiting } = simulation.scheduler;
        expect([numRunning, numWaiting]).toEqual([0, 0]);
        expect(simulation.blocks.numFreeBlocks).toBe(simulation.blocks.numUsableBlocks);
        for (const [i, { prompt, width, rounds, abortAt }] of groups.entries()) {
          if (abortAt !== null) continue;
          const contexts = live[i]!.members.map(({ tokenIds }) => Array.from(tokenIds));
          expect(contexts).toEqual(expected(simulation, promptOf(prompt, i), width, rounds));
        }
      }),
      { numRuns: 500 },
    );
  });

  it("run in a pool of their peak behind a window, although their last token stays in it", () => {
    for (let slidingWindow = 1; slidingWindow <= 9; slidingWindow++) {
      const kvGroups = [{ slidingWindow }];
      const simulation = new Simulation({
        numBlocks: 1 + peakBlocks(kvGroups, 4, longest, 1),
        blockSize: 4,
        kvGroups,
        maxTokens: 1,
      });
      const group = new Group(simulation, promptOf(20), 1, 10);
      while (simulation.step()) {
        group.advance();
        if (simulation.steps > 31) throw new Error("it was preempted");
      }
      const contexts = group.members.map(({ tokenIds }) => Array.from(tokenIds));
      expect(contexts).toEqual(expected(simulation, promptOf(20), 1, 10));
    }
  });

  it("share the blocks of what they have in common, and copy the last one only", () => {
    const simulation = new Simulation({ numBlocks: 100, blockSize: 4 });
    const group = new Group(simulation, promptOf(18), 4, 5);
    const used: number[] = [];
    while (simulation.step()) {
      used.push(simulation.blocks.numUsableBlocks - simulation.blocks.numFreeBlocks);
      group.advance();
    }
    // 4 full blocks of the prompt; then at most 4 copies of the block behind, and of the next one.
    expect(used[0]).toBe(5);
    expect(Math.max(...used)).toBeLessThanOrEqual(4 + 4 * 2);
  });

  it("compute each token once while there is room", () => {
    const simulation = new Simulation({ numBlocks: 100, blockSize: 4 });
    const group = new Group(simulation, promptOf(18), 4, 5);
    while (simulation.step()) group.advance();
    expect(simulation.fake.steps.map(({ tokens }) => tokens)).toEqual([18, 4, 4, 4, 4, 4]);
  });

  it("give their blocks up where nothing else could run otherwise", () => {
    // At the end each of three beams needs 4 blocks for itself, and there are 4.
    const simulation = new Simulation({
      numBlocks: 5,
      blockSize: 2,
      cache: { prefixSharing: false },
    });
    const group = new Group(simulation, promptOf(1), 3, 6);
    for (let step = 0; simulation.step(); step++) {
      group.advance();
      if (step > 200) throw new Error("livelock");
    }
    expect(simulation.scheduler.numPreemptions).toBeGreaterThan(0);
    expect(simulation.scheduler.takePreempted()).toEqual([]); // nobody asked; none is kept
    const contexts = group.members.map(({ tokenIds }) => Array.from(tokenIds));
    expect(contexts).toEqual(expected(simulation, promptOf(1), 3, 6));
  });

  it("are not left waiting by schedules that admit nobody", () => {
    const simulation = new Simulation({
      numBlocks: 5,
      blockSize: 2,
      cache: { prefixSharing: false },
    });
    const group = new Group(simulation, promptOf(1), 3, 6);
    const states = () => group.members.map(({ status, isHeld }) => `${status} ${isHeld}`);
    const isStuck = () => states().includes("waiting false") && states().includes("running true");
    while (!isStuck() && simulation.step()) group.advance();
    expect(states().filter((state) => state === "running false")).toEqual([]);
    expect(simulation.scheduler.schedule(false)).toBeUndefined();
    expect(simulation.blocks.numFreeBlocks).toBe(simulation.blocks.numUsableBlocks);
    while (simulation.step()) group.advance();
    expect(group.members.map(({ status }) => status)).toEqual(Array(3).fill("finished"));
  });

  it("are replaced only as a whole", () => {
    const simulation = new Simulation();
    const parent = simulation.addBranching(promptOf(3), 2);
    simulation.step();
    const options = { id: 1, stop: parent.stop, tokenIds: [1, 2] };
    expect(() => simulation.scheduler.replace([parent], [{ parent, options }])).toThrow(
      expect.objectContaining({ code: "ERR_ARGUMENT" }),
    );
    expect(parent.status).toBe("running");
    simulation.scheduler.abort(parent);
  });
});
