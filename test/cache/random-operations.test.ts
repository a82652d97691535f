import fc from "fast-check";
import { describe, it } from "vitest";
import type { BlockManagerOptions } from "../../lib/cache/block-manager.js";
import type { KvGroup } from "../../lib/graph/plan.js";
import { BlockMachine, type Choose } from "../support/block-machine.js";

/** Sequences of operations that are tried. */
const numRuns = Number(process.env["PAGODA_PROPERTY_RUNS"] ?? 1_000_000);

describe("any operations on a block manager", () => {
  it(`keep every invariant and every token, ${numRuns} times`, { timeout: 900_000 }, () => {
    for (let seed = 0; seed < numRuns; seed++) {
      const choose = chooser(seed);
      try {
        run(choose, choose(32) === 0 ? 150 : 4 + choose(14));
      } catch (cause) {
        throw new Error(`the operations of seed ${seed} break the block manager`, { cause });
      }
    }
  });

  it("keep them where an adversary chooses, shrunk to the shortest failure", () => {
    const choices = fc.array(fc.nat(10_079), { maxLength: 250 });
    fc.assert(
      fc.property(choices, (numbers) => {
        let next = 0;
        const choose: Choose = (below) => (numbers[next++] ?? 0) % below;
        const machine = new BlockMachine(shape(choose));
        while (next < numbers.length) machine.apply(choose);
        machine.finish();
      }),
      { numRuns: 5_000 },
    );
  });
});

function run(choose: Choose, numOperations: number): void {
  const machine = new BlockMachine(shape(choose));
  for (let i = 0; i < numOperations; i++) machine.apply(choose);
  machine.finish();
}

/** Small pools and blocks; often a hash that collides all the time, and KV groups with and without windows. */
function shape(choose: Choose): BlockManagerOptions {
  const options = { numBlocks: 2 + choose(30), blockSize: 1 + choose(5) };
  const hash = choose(2) === 0 ? {} : { hash: colliding };
  return { ...options, ...hash, kvGroups: groups(choose), prefixSharing: choose(10) > 0 };
}

/** One without a window, one with, or several of both. */
function groups(choose: Choose): readonly KvGroup[] {
  const full = { slidingWindow: 0 };
  const windowed = (): KvGroup => ({ slidingWindow: 1 + choose(9) });
  const kinds = [[full], [windowed()], [full, windowed()], [windowed(), windowed()]];
  return [...kinds, [full, windowed(), full, windowed()]][choose(5)]!;
}

/** Two bits of the tokens, and nothing of the parent. */
function colliding(_parent: number, tokenIds: Int32Array, start: number, end: number): number {
  let sum = 0;
  for (let i = start; i < end; i++) sum += tokenIds[i]!;
  return sum % 4;
}

/** Uniform choices that depend on the seed alone (a multiply-xorshift counter). */
function chooser(seed: number): Choose {
  let state = Math.imul(seed + 1, 0x2c1b3c6d);
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let word = Math.imul(state ^ (state >>> 15), state | 1);
    word ^= word + Math.imul(word ^ (word >>> 7), word | 61);
    return ((word ^ (word >>> 14)) >>> 0) % below;
  };
}
