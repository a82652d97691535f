import { describe, expect, it } from "vitest";
import { byPriority, fcfs } from "../../lib/scheduler/policy.js";
import type { Sequence } from "../../lib/scheduler/sequence.js";
import { createRandom } from "../support/random.js";
import { promptOf, Simulation } from "../support/simulate.js";

describe("ranks", () => {
  it("are arrivals for first come, first served", () => {
    expect([fcfs(0, 5), fcfs(7, -5)]).toEqual([0, 7]);
  });

  it("put urgent sequences first, and equal ones in order of arrival", () => {
    expect(byPriority(9, 0)).toBeLessThan(byPriority(3, 1));
    expect(byPriority(3, 1)).toBeLessThan(byPriority(9, 1));
  });

  it("let a sequence be overtaken by a bounded number of later ones", () => {
    expect(byPriority(1023, 0)).toBeLessThan(byPriority(0, 1));
    expect(byPriority(1025, 0)).toBeGreaterThan(byPriority(0, 1));
  });
});

describe("priority", () => {
  it("decides who is admitted next", () => {
    const simulation = new Simulation({ scheduler: { maxSequences: 1, policy: byPriority } });
    const order: number[] = [];
    const priorities = [0, 1, -1, 1, 0];
    const sequences = priorities.map((priority, i) =>
      simulation.add(promptOf(3, i), 1, [], { priority }),
    );
    while (simulation.step(({ sequences: [first] }) => order.push(first!.sequence.id)));
    expect(order).toEqual([2, 0, 4, 1, 3]);
    expect(sequences.every(({ status }) => status === "finished")).toBe(true);
  });

  it("decides whose blocks are taken: the least urgent, then the youngest", () => {
    const simulation = new Simulation({
      numBlocks: 9,
      blockSize: 4,
      scheduler: { policy: byPriority },
    });
    const low = simulation.add(promptOf(8, 1), 8, [], { priority: 5 });
    const normal = simulation.add(promptOf(8, 2), 8);
    const young = simulation.add(promptOf(8, 3), 8);
    simulation.run();
    expect(low.numPreemptions).toBeGreaterThan(0);
    expect(normal.numPreemptions).toBe(0);
    expect(young.numPreemptions).toBeLessThanOrEqual(low.numPreemptions);
  });
});

/**
 * The bounds of the scheduler's documentation, against an endless stream of rivals in pools that are too small for all.
 */
describe("no sequence starves", () => {
  const seeds = Array.from({ length: 40 }, (_, seed) => seed);

  it.each(seeds)("first come, first served: a sequence waits only for older ones (%i)", (seed) => {
    const random = createRandom(seed);
    const simulation = new Simulation({ numBlocks: 8 + random.integer(10), blockSize: 4 });
    const add = () =>
      simulation.add(promptOf(1 + random.integer(12), random.integer(20)), 1 + random.integer(8));
    for (let i = 0; i < 5; i++) add();
    const victim = add();
    const bound = tokensOf(simulation.sequences);
    let steps = 0;
    for (; victim.status !== "finished"; steps++) {
      expect(steps).toBeLessThan(bound);
      add();
      simulation.step();
    }
    simulation.scheduler.abortAll();
  });

  it.each(seeds)("by priority: urgent rivals overtake it for a bounded time (%i)", (seed) => {
    const random = createRandom(seed);
    // Levels of 6 arrivals, so that the bound is near.
    const policy = (arrival: number, priority: number) => arrival + 6 * priority;
    const simulation = new Simulation({
      numBlocks: 8 + random.integer(10),
      blockSize: 4,
      scheduler: { policy },
    });
    const add = (priority: number) =>
      simulation.add(
        promptOf(1 + random.integer(12), random.integer(20)),
        1 + random.integer(8),
        [],
        {
          priority,
        },
      );
    for (let i = 0; i < 5; i++) add(random.integer(4));
    const victim = add(3);
    let steps = 0;
    for (; victim.status !== "finished"; steps++) {
      const before = simulation.sequences.filter(({ rank }) => rank <= victim.rank);
      // While the first of those before it waits, those that run behind it end; then it runs itself.
      const allowed = before.length * longestDrain(simulation) + tokensOf(before);
      expect(steps).toBeLessThan(allowed);
      const overtaking = before.filter(({ id }) => id > victim.id);
      expect(overtaking.length).toBeLessThanOrEqual(6 * 3);
      add(0);
      simulation.step();
    }
    simulation.scheduler.abortAll();
  });
});

function tokensOf(sequences: readonly Sequence[]): number {
  return sequences.reduce((sum, { maxNumTokens }) => sum + maxNumTokens, 0);
}

/** Steps until all that can run at the same time have ended. */
function longestDrain(simulation: Simulation): number {
  const { maxRequests } = simulation.fake.limits;
  return maxRequests * 20;
}
