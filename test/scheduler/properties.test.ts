import fc from "fast-check";
import { describe, it } from "vitest";
import type { Sequence } from "../../lib/scheduler/sequence.js";
import { promptOf, Simulation } from "../support/simulate.js";

/** What happens between two steps, or in one. */
type Event =
  | { readonly kind: "add"; readonly prompt: number; readonly output: number }
  | { readonly kind: "step" }
  | { readonly kind: "abort"; readonly index: number; readonly isInFlight: boolean };

const event: fc.Arbitrary<Event> = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant("add"),
      prompt: fc.integer({ min: 1, max: 30 }),
      output: fc.integer({ min: 1, max: 20 }),
    }),
  },
  { weight: 6, arbitrary: fc.record({ kind: fc.constant("step") }) },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant("abort"),
      index: fc.nat({ max: 20 }),
      isInFlight: fc.boolean(),
    }),
  },
);

const machine = fc.record({
  numBlocks: fc.integer({ min: 2, max: 24 }),
  blockSize: fc.integer({ min: 1, max: 8 }),
  maxBatchTokens: fc.integer({ min: 1, max: 40 }),
  maxSequences: fc.integer({ min: 1, max: 8 }),
  maxChunkTokens: fc.integer({ min: 1, max: 40 }),
  kvGroups: fc.array(fc.record({ slidingWindow: fc.integer({ min: 0, max: 12 }) }), {
    minLength: 1,
    maxLength: 3,
  }),
});

type Machine = typeof machine extends fc.Arbitrary<infer T> ? T : never;

describe("any load on any machine", () => {
  it("ends with the tokens that each sequence has alone, within the livelock bound", () => {
    fc.assert(fc.property(machine, fc.array(event, { maxLength: 40 }), runLoad), { numRuns: 1500 });
  });

  it("gives the same tokens for any chunk size, batch size and block size", () => {
    const load = fc.array(
      fc.tuple(fc.integer({ min: 1, max: 30 }), fc.integer({ min: 1, max: 12 })),
      {
        minLength: 1,
        maxLength: 6,
      },
    );
    fc.assert(
      fc.property(machine, machine, load, (one, other, load) => {
        const enough = { numBlocks: 180, blockSize: 4, kvGroups: one.kvGroups };
        const outputs = [
          { ...one, ...enough },
          { ...other, ...enough },
        ].map((machine) => {
          const simulation = simulate(machine);
          const sequences = load.map(([prompt, output], i) =>
            simulation.add(promptOf(prompt, i), output),
          );
          simulation.run();
          return JSON.stringify(sequences.map((sequence) => simulation.output(sequence)));
        });
        if (outputs[0] !== outputs[1]) throw new Error("outputs differ");
      }),
      { numRuns: 300 },
    );
  });
});

function simulate({ numBlocks, blockSize, kvGroups, ...scheduler }: Machine): Simulation {
  const { maxBatchTokens: maxTokens, maxSequences: maxRequests } = scheduler;
  const limits = { maxTokens, maxRequests, maxOutputs: maxRequests };
  return new Simulation({ numBlocks, blockSize, kvGroups, ...limits, scheduler });
}

/** The simulation checks budget, order, fairness and cache after each step. */
function runLoad(machine: Machine, events: readonly Event[]): void {
  const simulation = simulate(machine);
  const { blocks } = simulation;
  const maxChunk = Math.min(machine.maxChunkTokens, machine.maxBatchTokens);
  const fits = (numTokens: number) =>
    blocks.peakBlocks(numTokens, maxChunk) <= blocks.numUsableBlocks;
  const aborted = new Set<Sequence>();
  const abort = (index: number) => {
    const sequence = simulation.sequences[index];
    if (sequence === undefined || sequence.status === "finished") return;
    simulation.scheduler.abort(sequence);
    aborted.add(sequence);
  };
  for (const event of events) {
    if (event.kind === "add" && fits(event.prompt + event.output)) {
      simulation.add(promptOf(event.prompt, simulation.sequences.length), event.output);
    } else if (event.kind === "step") {
      simulation.step();
    } else if (event.kind === "abort" && event.isInFlight) {
      simulation.step(() => abort(event.index));
    } else if (event.kind === "abort") {
      abort(event.index);
    }
  }
  simulation.run(livelockBound(simulation));
  for (const sequence of simulation.sequences) {
    if (!aborted.has(sequence)) checkOutput(simulation, sequence);
  }
  if (simulation.blocks.numFreeBlocks !== simulation.blocks.numUsableBlocks)
    throw new Error("leak");
}

/** The oldest sequence computes a token in every step and is never preempted. */
function livelockBound({ sequences }: Simulation): number {
  return sequences.reduce((sum, { maxNumTokens }) => sum + maxNumTokens, 0);
}

function checkOutput(simulation: Simulation, sequence: Sequence): void {
  const prompt = [...sequence.tokenIds.subarray(0, sequence.promptLength)];
  const expected = simulation.fake.expected(prompt, sequence.stop.maxTokens);
  if (simulation.output(sequence).join() !== expected.join()) throw new Error("wrong tokens");
  if (simulation.ended.get(sequence.id) !== "length") throw new Error("did not end by length");
}
