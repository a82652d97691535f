import { describe, expect, it } from "vitest";
import { promptOf, Simulation } from "../support/simulate.js";

describe("equal beginnings", () => {
  it("are computed once, when the first has been computed", () => {
    const simulation = new Simulation({ blockSize: 4 });
    const first = simulation.add(promptOf(18), 3);
    simulation.step();
    const second = simulation.add([...promptOf(16), 99, 98, 97], 3);
    simulation.step();
    expect(second.numCachedTokens).toBe(16);
    expect(simulation.fake.steps.map(({ tokens }) => tokens)).toEqual([18, 1 + 3]);
    expect(simulation.blocks.numSharedBlocks).toBe(4);
    simulation.run();
    expect(simulation.output(first)).toEqual(simulation.fake.expected(promptOf(18), 3));
    const prompt = [...promptOf(16), 99, 98, 97];
    expect(simulation.output(second)).toEqual(simulation.fake.expected(prompt, 3));
  });

  it("are not shared by sequences of one step, whose K and V do not exist yet", () => {
    const simulation = new Simulation({ blockSize: 4 });
    const both = [simulation.add(promptOf(18), 3), simulation.add(promptOf(18), 3)];
    simulation.step();
    expect(simulation.fake.steps[0]!.tokens).toBe(36);
    expect(both.map(({ numCachedTokens }) => numCachedTokens)).toEqual([0, 0]);
    simulation.run();
    for (const sequence of both) {
      expect(simulation.output(sequence)).toEqual(simulation.fake.expected(promptOf(18), 3));
    }
    const later = simulation.add(promptOf(18), 1);
    simulation.run();
    expect(later.numCachedTokens).toBe(16);
  });

  it("of a prompt that is still computed in chunks are shared as far as they are", () => {
    const simulation = new Simulation({ blockSize: 4, scheduler: { maxChunkTokens: 8 } });
    simulation.add(promptOf(30), 2);
    simulation.step();
    const second = simulation.add(promptOf(30), 2);
    simulation.step();
    expect(second.numCachedTokens).toBe(8);
    simulation.run();
    expect(simulation.output(second)).toEqual(simulation.fake.expected(promptOf(30), 2));
  });

  it("leave the last token to be computed, as its logits are needed", () => {
    const simulation = new Simulation({ blockSize: 4 });
    simulation.add(promptOf(16), 1);
    simulation.run();
    const again = simulation.add(promptOf(16), 1);
    simulation.run();
    expect(again.numCachedTokens).toBe(12);
  });

  it("include what was drawn", () => {
    const simulation = new Simulation({ blockSize: 4 });
    const first = simulation.add(promptOf(6), 12);
    simulation.run();
    const conversation = [...first.tokenIds, 5, 6];
    const second = simulation.add(conversation, 1);
    simulation.run();
    expect(second.numCachedTokens).toBe(16); // the 18th token was drawn but never computed
  });

  it("are not shared across salts", () => {
    const simulation = new Simulation({ blockSize: 4 });
    const cached = ["a", "b", "a", undefined, undefined].map((cacheSalt) => {
      const sequence = simulation.add(promptOf(18), 1, [], cacheSalt ? { cacheSalt } : {});
      simulation.run();
      return sequence.numCachedTokens;
    });
    expect(cached).toEqual([0, 0, 16, 0, 16]);
  });

  it("survive an abort in the middle of a prompt", () => {
    const simulation = new Simulation({ blockSize: 4, scheduler: { maxChunkTokens: 8 } });
    const gone = simulation.add(promptOf(30), 2);
    simulation.step();
    simulation.step(() => simulation.scheduler.abort(gone));
    expect(simulation.blocks.numFreeBlocks).toBe(simulation.blocks.numUsableBlocks);
    const again = simulation.add(promptOf(30), 2);
    simulation.run();
    expect(again.numCachedTokens).toBe(16);
  });

  it("make computing again after a preemption cheap", () => {
    const simulation = new Simulation({ numBlocks: 8, blockSize: 4 });
    simulation.add(promptOf(8), 12);
    const young = simulation.add(promptOf(12, 1), 12);
    simulation.run();
    expect(young.numPreemptions).toBe(1);
    const computed = simulation.fake.steps.reduce((sum, { tokens }) => sum + tokens, 0);
    // Both have 19 and 23 tokens to compute; without the cache the preempted one's 12 or more would be added.
    expect(computed).toBeLessThan(19 + 23 + 12);
    expect(simulation.output(young)).toEqual(simulation.fake.expected(promptOf(12, 1), 12));
    expect(young.numCachedTokens).toBe(0);
  });

  it("that led to logits that are not finite are forgotten", () => {
    const simulation = new Simulation({ blockSize: 4, isFinite: (all) => all.length !== 18 });
    const sick = simulation.add(promptOf(18), 2);
    simulation.run();
    expect(simulation.ended.get(sick.id)).toBe("error");
    expect(simulation.blocks.numCachedBlocks).toBe(0);
  });

  it("take free cached blocks from the pool, so that admission counts them", () => {
    const simulation = new Simulation({ numBlocks: 9, blockSize: 4 });
    simulation.add(promptOf(17), 1);
    simulation.run();
    expect(simulation.blocks.numCachedBlocks).toBe(4);
    simulation.add(promptOf(16, 1), 1); // takes the 4 blocks that are not cached
    simulation.add([...promptOf(16), 7, 7, 7], 2); // 4 cached but free, and 1
    simulation.step();
    expect(simulation.scheduler.numRunning).toBe(0); // the first one drew its only token
    expect(simulation.scheduler.numWaiting).toBe(1);
    simulation.run();
  });
});

describe("fork", () => {
  it("shares all blocks and copies the partial one when both go on", () => {
    const simulation = new Simulation({ blockSize: 4 });
    const parent = simulation.add(promptOf(10), 6);
    simulation.step();
    const free = simulation.blocks.numFreeBlocks;
    const child = simulation.fork(parent, 6, {
      tokenIds: [],
      sampling: { ...parent.sampling, temperature: 1, seed: [3, 0] },
    });
    expect(simulation.blocks.numFreeBlocks).toBe(free);
    expect(simulation.blocks.numSharedBlocks).toBe(3);
    const pairs: number[][] = [];
    simulation.step(({ blockCopies }) => pairs.push([...blockCopies]));
    expect(pairs[0]).toHaveLength(2); // one copy: the last owner writes in place
    expect(simulation.blocks.numSharedBlocks).toBe(2);
    expect(simulation.blocks.numFreeBlocks).toBe(free - 1);
    simulation.step(({ blockCopies }) => pairs.push([...blockCopies]));
    expect(pairs[1]).toEqual([]);
    simulation.run();
    expect(simulation.output(parent)).toEqual(simulation.fake.expected(promptOf(10), 6));
    expect(child.numOutputTokens).toBe(6);
    expect(simulation.output(child)).not.toEqual(simulation.output(parent));
  });

  it("draws its own first token where it keeps only the prompt", () => {
    const simulation = new Simulation({ blockSize: 4 });
    const parent = simulation.add(promptOf(10), 4);
    simulation.step();
    const children = [1, 2, 3].map(() => simulation.fork(parent, 4, { numTokens: 10 }));
    simulation.step();
    expect(simulation.fake.steps.at(-1)).toEqual({ tokens: 4, requests: 4, outputs: 4 });
    simulation.run();
    for (const sequence of [parent, ...children]) {
      expect(simulation.output(sequence)).toEqual(simulation.fake.expected(promptOf(10), 4));
    }
  });

  it("waits without blocks where no more may run, and finds full ones again", () => {
    const simulation = new Simulation({ blockSize: 4, scheduler: { maxSequences: 1 } });
    const parent = simulation.add(promptOf(10), 4);
    simulation.step();
    const child = simulation.fork(parent, 4, { numTokens: 10 });
    expect(child.status).toBe("waiting");
    expect(child.blockTable.numBlocks).toBe(0);
    simulation.run();
    expect(simulation.output(child)).toEqual(simulation.fake.expected(promptOf(10), 4));
  });

  it("outlives its parent", () => {
    const simulation = new Simulation({ blockSize: 4 });
    const parent = simulation.add(promptOf(10), 9);
    for (let i = 0; i < 7; i++) simulation.step();
    const child = simulation.fork(parent, 9, { numTokens: 14 }); // its last block is full and cached
    simulation.scheduler.abort(parent);
    simulation.run();
    expect(simulation.output(child)).toEqual(simulation.fake.expected(promptOf(10), 9));
  });

  it("refuses ended parents, too many tokens, and more than the cache holds", () => {
    const simulation = new Simulation({ numBlocks: 9, blockSize: 4 });
    const parent = simulation.add(promptOf(10), 4);
    simulation.step();
    expect(() => simulation.fork(parent, 60)).toThrow(
      expect.objectContaining({ code: "ERR_CONTEXT_LENGTH" }),
    );
    expect(() => simulation.fork(parent, 4, { numTokens: 9 })).toThrow("`numTokens`");
    expect(() => simulation.fork(parent, 4, { numTokens: 12 })).toThrow("`numTokens`");
    expect(() => simulation.fork(parent, 2, { tokenIds: [1, 2] })).toThrow("`tokenIds`");
    simulation.step(() => expect(() => simulation.fork(parent, 4)).toThrow("between its steps"));
    simulation.run();
    expect(() => simulation.fork(parent, 4)).toThrow("`parent`");
  });
});

describe("a pin", () => {
  it("keeps a prefix from being reused", () => {
    const simulation = new Simulation({ numBlocks: 17, blockSize: 4 });
    simulation.add(promptOf(17), 1);
    simulation.run();
    const pin = simulation.blocks.pin(Int32Array.from(promptOf(17)));
    expect(pin.numTokens).toBe(16);
    for (let salt = 1; salt < 5; salt++) {
      simulation.add(promptOf(40, salt), 1);
      simulation.run();
    }
    const again = simulation.add(promptOf(17), 1);
    simulation.run();
    expect(again.numCachedTokens).toBe(16);
    simulation.blocks.unpin(pin);
    simulation.blocks.unpin(pin);
    for (let salt = 1; salt < 5; salt++) simulation.add(promptOf(60, salt), 1);
    simulation.run();
    const gone = simulation.add(promptOf(17), 1);
    simulation.run();
    expect(gone.numCachedTokens).toBe(0);
  });

  it("is given up before a sequence has to wait, or is preempted", () => {
    const simulation = new Simulation({ numBlocks: 17, blockSize: 4 });
    simulation.add(promptOf(17), 1);
    simulation.run();
    const pins = [17, 17].map((length) => simulation.blocks.pin(Int32Array.from(promptOf(length))));
    const one = simulation.add(promptOf(36, 1), 20);
    const other = simulation.add(promptOf(8, 2), 6);
    simulation.step();
    expect([one.status, other.status]).toEqual(["running", "running"]);
    expect(pins.map(({ numBlocks }) => numBlocks)).toEqual([4, 4]);
    simulation.run();
    expect(pins.map(({ numBlocks }) => numBlocks)).toEqual([0, 0]);
    expect(simulation.scheduler.numPreemptions).toBe(0);
  });

  it("is given up where the next sequence could not run otherwise", () => {
    const simulation = new Simulation({ numBlocks: 9, blockSize: 4 });
    simulation.add(promptOf(17), 1);
    simulation.run();
    const pin = simulation.blocks.pin(Int32Array.from(promptOf(17)));
    const large = simulation.add(promptOf(20, 1), 12);
    simulation.run();
    expect(pin.numBlocks).toBe(0);
    expect(simulation.output(large)).toEqual(simulation.fake.expected(promptOf(20, 1), 12));
  });
});
