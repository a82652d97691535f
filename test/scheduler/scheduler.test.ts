import { describe, expect, it } from "vitest";
import { BlockManager } from "../../lib/cache/block-manager.js";
import { Scheduler } from "../../lib/scheduler/scheduler.js";
import { Sequence } from "../../lib/scheduler/sequence.js";
import { promptOf, Simulation } from "../support/simulate.js";

const stop = { maxTokens: 4, eosTokenIds: new Set<number>(), stopTokenIds: new Set<number>() };

describe("one sequence", () => {
  it("computes its prompt in one step, then draws a token a step", () => {
    const simulation = new Simulation();
    const prompt = promptOf(10);
    const sequence = simulation.add(prompt, 4);
    expect(sequence.status).toBe("waiting");
    simulation.run();
    expect(simulation.fake.steps.map(({ tokens }) => tokens)).toEqual([10, 1, 1, 1]);
    expect(simulation.output(sequence)).toEqual(simulation.fake.expected(prompt, 4));
    expect(sequence.status).toBe("finished");
    expect(simulation.ended.get(0)).toBe("length");
    expect(simulation.blocks.numFreeBlocks).toBe(simulation.blocks.numUsableBlocks);
  });

  it("splits a long prompt into chunks and draws only behind the last one", () => {
    const simulation = new Simulation({ scheduler: { maxChunkTokens: 4 } });
    simulation.add(promptOf(10), 2);
    simulation.run();
    expect(simulation.fake.steps).toEqual([
      { tokens: 4, requests: 1, outputs: 0 },
      { tokens: 4, requests: 1, outputs: 0 },
      { tokens: 2, requests: 1, outputs: 1 },
      { tokens: 1, requests: 1, outputs: 1 },
    ]);
  });

  it("ends at the end-of-sequence token", () => {
    const simulation = new Simulation();
    const prompt = promptOf(5);
    const expected = simulation.fake.expected(prompt, 3);
    const sequence = simulation.add(prompt, 10, [expected[2]!]);
    simulation.run();
    expect(simulation.output(sequence)).toEqual(expected);
    expect(simulation.ended.get(0)).toBe("stop");
  });

  it("ends with an error where its logits are not finite, without the token", () => {
    const simulation = new Simulation({ isFinite: (context) => context.length !== 7 });
    const sick = simulation.add(promptOf(5), 10);
    const healthy = simulation.add(promptOf(8, 1), 3);
    simulation.run();
    expect(simulation.ended.get(sick.id)).toBe("error");
    expect(sick.numOutputTokens).toBe(2);
    expect(simulation.output(healthy)).toEqual(simulation.fake.expected(promptOf(8, 1), 3));
  });
});

describe("the token budget", () => {
  it("is shared by prompts and running sequences in one step", () => {
    const simulation = new Simulation({ scheduler: { maxBatchTokens: 16 } });
    simulation.add(promptOf(6), 8);
    simulation.step();
    simulation.add(promptOf(40, 1), 2);
    simulation.step();
    expect(simulation.fake.steps.at(-1)).toEqual({ tokens: 16, requests: 2, outputs: 1 });
    simulation.run();
  });

  it("serves running sequences before it admits others", () => {
    const simulation = new Simulation({ scheduler: { maxBatchTokens: 4 } });
    for (let i = 0; i < 6; i++) simulation.add(promptOf(1, i), 5);
    simulation.step();
    expect(simulation.scheduler.numRunning).toBe(4);
    expect(simulation.scheduler.numWaiting).toBe(2);
    simulation.run();
  });

  it("bounds the chunk of each prompt, so that several advance together", () => {
    const simulation = new Simulation({ scheduler: { maxBatchTokens: 16, maxChunkTokens: 8 } });
    simulation.add(promptOf(20), 1);
    simulation.add(promptOf(20, 1), 1);
    simulation.step();
    expect(simulation.fake.steps[0]).toEqual({ tokens: 16, requests: 2, outputs: 0 });
    simulation.run();
  });

  it("admits no more than maxSequences", () => {
    const simulation = new Simulation({ scheduler: { maxSequences: 3 } });
    for (let i = 0; i < 7; i++) simulation.add(promptOf(3, i), 2);
    simulation.step();
    expect(simulation.scheduler.numRunning).toBe(3);
    simulation.run();
  });
});

describe("blocks", () => {
  it("are granted only to a sequence that fits as a whole, beside what others still need", () => {
    const scheduler = { maxChunkTokens: 4 };
    const simulation = new Simulation({ numBlocks: 11, blockSize: 4, maxTokens: 8, scheduler });
    simulation.add(promptOf(32), 1);
    simulation.add(promptOf(32, 1), 1);
    simulation.step();
    // 9 blocks are free, but the rest of the first prompt claims 7 of them, and the second needs 8.
    expect(simulation.scheduler.numRunning).toBe(1);
    simulation.run();
    expect(simulation.scheduler.numPreemptions).toBe(0);
  });

  it("are taken from the youngest when they run out, and it is computed again", () => {
    const simulation = new Simulation({ numBlocks: 7, blockSize: 4 });
    const [old, young] = [simulation.add(promptOf(8), 12), simulation.add(promptOf(8, 1), 12)];
    simulation.run();
    expect(simulation.scheduler.numPreemptions).toBeGreaterThan(0);
    expect(old.numPreemptions).toBe(0);
    expect(young.numPreemptions).toBe(simulation.scheduler.numPreemptions);
    expect(simulation.output(old)).toEqual(simulation.fake.expected(promptOf(8), 12));
    expect(simulation.output(young)).toEqual(simulation.fake.expected(promptOf(8, 1), 12));
  });

  it("are not granted to waiting sequences in a step that preempts", () => {
    const simulation = new Simulation({ numBlocks: 5, blockSize: 4 });
    simulation.add(promptOf(8), 8);
    simulation.add(promptOf(8, 1), 8);
    simulation.step();
    simulation.add(promptOf(1, 2), 1);
    simulation.step(); // both need a third block, none is free
    expect(simulation.scheduler.numRunning).toBe(1);
    expect(simulation.scheduler.numWaiting).toBe(2);
    simulation.run();
  });

  it("that no pool has make a sequence impossible", () => {
    const simulation = new Simulation({ numBlocks: 5, blockSize: 4 });
    expect(() => simulation.add(promptOf(10), 7)).toThrow(
      expect.objectContaining({
        code: "ERR_CONTEXT_LENGTH",
        details: { tokens: 17, blocks: 5, available: 4 },
      }),
    );
    expect(() => simulation.add(promptOf(10), 6)).not.toThrow();
    simulation.run();
  });

  it("stay with running sequences while admission is off", () => {
    const simulation = new Simulation();
    simulation.add(promptOf(4), 2);
    expect(simulation.scheduler.schedule(false)).toBeUndefined();
    simulation.run();
  });
});

describe("abort", () => {
  it("frees a running sequence at once between steps", () => {
    const simulation = new Simulation();
    const sequence = simulation.add(promptOf(9), 5);
    simulation.step();
    simulation.scheduler.abort(sequence);
    simulation.scheduler.abort(sequence);
    expect(simulation.blocks.numFreeBlocks).toBe(simulation.blocks.numUsableBlocks);
    expect(simulation.step()).toBe(false);
  });

  it("keeps the blocks of the step that runs until commit, and drops its token", () => {
    const simulation = new Simulation();
    const [gone, other] = [simulation.add(promptOf(9), 5), simulation.add(promptOf(5, 1), 5)];
    simulation.step();
    const before = simulation.blocks.numFreeBlocks;
    simulation.step(() => {
      simulation.scheduler.abort(gone);
      expect(simulation.blocks.numFreeBlocks).toBe(before);
      expect(simulation.scheduler.numRunning).toBe(1);
    });
    expect(gone.blockTable.numBlocks).toBe(0);
    expect(gone.numOutputTokens).toBe(1);
    simulation.run();
    expect(simulation.output(other)).toEqual(simulation.fake.expected(promptOf(5, 1), 5));
  });

  it("removes waiting, new and preempted sequences", () => {
    const simulation = new Simulation({ numBlocks: 5, blockSize: 4 });
    const sequences = [0, 1, 2].map((salt) => simulation.add(promptOf(8, salt), 8));
    simulation.step();
    simulation.step();
    expect(sequences[1]!.numPreemptions).toBe(1);
    simulation.scheduler.abort(sequences[1]!);
    simulation.scheduler.abort(sequences[2]!);
    expect(simulation.scheduler.numWaiting).toBe(0);
    const unknown = new Sequence({ id: 9, promptTokenIds: [1], stop });
    simulation.scheduler.abort(unknown);
    simulation.run();
    expect(simulation.output(sequences[0]!)).toHaveLength(8);
  });

  it("of all ends everything, even after a step that failed", () => {
    const simulation = new Simulation();
    for (let i = 0; i < 3; i++) simulation.add(promptOf(6, i), 5);
    simulation.step();
    simulation.scheduler.schedule(); // never committed
    simulation.scheduler.abort(simulation.sequences[0]!);
    simulation.scheduler.abortAll();
    expect(simulation.blocks.numFreeBlocks).toBe(simulation.blocks.numUsableBlocks);
    expect(simulation.sequences.map(({ status }) => status)).toEqual(Array(3).fill("finished"));
    expect(simulation.scheduler.schedule()).toBeUndefined();
  });
});

describe("misuse", () => {
  const blocks = () => new BlockManager({ numBlocks: 9, blockSize: 4 });

  it.each(["maxBatchTokens", "maxSequences", "maxChunkTokens"])("refuses a bad %s", (name) => {
    for (const bad of [0, -1, 1.5, NaN, Infinity, "4", null, 2 ** 31]) {
      const options = { maxBatchTokens: 8, maxSequences: 4, [name]: bad as number };
      expect(() => new Scheduler(blocks(), options), String(bad)).toThrow(`\`${name}\``);
    }
  });

  it("refuses a sequence that was added before, and an empty one", () => {
    const scheduler = new Scheduler(blocks(), { maxBatchTokens: 8, maxSequences: 4 });
    const sequence = new Sequence({ id: 0, promptTokenIds: [1, 2], stop });
    scheduler.add(sequence);
    expect(() => scheduler.add(sequence)).toThrow("never added");
    scheduler.abort(sequence);
    expect(() => scheduler.add(sequence)).toThrow("never added");
    expect(() => new Sequence({ id: 1, promptTokenIds: [], stop })).toThrow("`promptTokenIds`");
  });

  it("refuses to schedule before the previous step was committed", () => {
    const scheduler = new Scheduler(blocks(), { maxBatchTokens: 8, maxSequences: 4 });
    scheduler.add(new Sequence({ id: 0, promptTokenIds: [1, 2], stop }));
    scheduler.schedule();
    expect(() => scheduler.schedule()).toThrow("committed");
  });
});
