import type { BlockManager, BlockTable } from "../cache/block-manager.js";
import type { SamplingInput, StepInput } from "../engine/step.js";
import { packOptional } from "../sampling/pack-controls.js";
import type { ScheduledStep } from "./scheduler.js";
import type { Sequence } from "./sequence.js";

/**
 * Packs steps into flat arrays, which grow and are reused: a packed step is valid until the next one is packed.
 * Takes O(G * (T + R * maxBlocks)) time for G KV groups and allocates nothing once the arrays are large enough, views aside.
 */
export class Batch {
  readonly #blocks: BlockManager;
  #tokens: TokenArrays = tokenArrays(0);
  #requests: RequestArrays = requestArrays(0);
  /** [G, T] */
  #slotMapping: Int32Array = new Int32Array(0);
  /** [G, R, maxBlocks] */
  #blockTable: Int32Array = new Int32Array(0);

  constructor(blocks: BlockManager) {
    this.#blocks = blocks;
  }

  /** The inputs of one step. Sequences must have slots for the tokens that are scheduled. */
  pack(step: ScheduledStep): StepInput {
    const { sequences, numTokens, numOutputs } = step;
    const maxBlocks = this.#reserve(step);
    let start = 0;
    let output = 0;
    for (const [request, { sequence, numTokens: count, isSampled }] of sequences.entries()) {
      this.#packTokens(sequence, start, count);
      this.#packBlocks(sequence.blockTable, request, step, maxBlocks);
      this.#packSlots(sequence, start, count, numTokens);
      start += count;
      this.#requests.queryStartLoc[request + 1] = start;
      this.#requests.seqLens[request] = sequence.numComputedTokens + count;
      if (isSampled) this.#packOutput(sequence, output++, start - 1);
    }
    const numGroups = this.#blocks.kvGroups.length;
    const { tokenIds, positions } = this.#tokens;
    const { queryStartLoc, seqLens, outputRows } = this.#requests;
    return {
      tokenIds: tokenIds.subarray(0, numTokens),
      positions: positions.subarray(0, numTokens),
      queryStartLoc: queryStartLoc.subarray(0, sequences.length + 1),
      seqLens: seqLens.subarray(0, sequences.length),
      blockTable: this.#blockTable.subarray(0, numGroups * sequences.length * maxBlocks),
      maxBlocks,
      slotMapping: this.#slotMapping.subarray(0, numGroups * numTokens),
      blockCopies: step.blockCopies,
      outputRows: outputRows.subarray(0, numOutputs),
      sampling: this.#samplingViews(step),
    };
  }

  /** Grows the arrays to the step's size; returns the row length of its block table. */
  #reserve({ sequences, numTokens }: ScheduledStep): number {
    let maxBlocks = 1;
    for (const { sequence } of sequences) {
      maxBlocks = Math.max(maxBlocks, sequence.blockTable.numBlocks);
    }
    if (this.#tokens.tokenIds.length < numTokens) this.#tokens = tokenArrays(2 * numTokens);
    if (this.#requests.seqLens.length < sequences.length) {
      this.#requests = requestArrays(2 * sequences.length);
    }
    const numGroups = this.#blocks.kvGroups.length;
    const size = numGroups * sequences.length * maxBlocks;
    if (this.#blockTable.length < size) this.#blockTable = new Int32Array(2 * size);
    const numSlots = numGroups * numTokens;
    if (this.#slotMapping.length < numSlots) this.#slotMapping = new Int32Array(2 * numSlots);
    return maxBlocks;
  }

  #packTokens(sequence: Sequence, start: number, count: number): void {
    const { tokenIds, positions } = this.#tokens;
    const first = sequence.numComputedTokens;
    tokenIds.set(sequence.tokenIds.subarray(first, first + count), start);
    for (let i = 0; i < count; i++) positions[start + i] = first + i;
  }

  /** In every group, the slots of `count` tokens, from token `start` of the step's `numTokens` on. */
  #packSlots(sequence: Sequence, start: number, count: number, numTokens: number): void {
    const { numComputedTokens: first, blockTable } = sequence;
    const { blockSize } = this.#blocks;
    let at = start;
    for (const { blocks } of blockTable.groups) {
      for (let i = 0; i < count; i++) {
        const block = blocks[Math.floor((first + i) / blockSize)]!;
        this.#slotMapping[at + i] = block * blockSize + ((first + i) % blockSize);
      }
      at += numTokens;
    }
  }

  /** The row of a request in the block table of every group. */
  #packBlocks(
    { groups, numBlocks }: BlockTable,
    request: number,
    { sequences }: ScheduledStep,
    maxBlocks: number,
  ): void {
    let at = request * maxBlocks;
    for (const { blocks } of groups) {
      this.#blockTable.set(blocks.subarray(0, numBlocks), at);
      this.#blockTable.fill(0, at + numBlocks, at + maxBlocks);
      at += sequences.length * maxBlocks;
    }
  }

  #packOutput({ sampling, numTokens }: Sequence, output: number, row: number): void {
    const arrays = this.#requests;
    arrays.outputRows[output] = row;
    arrays.temperature[output] = sampling.temperature;
    arrays.topK[output] = sampling.topK;
    arrays.topP[output] = sampling.topP;
    arrays.minP[output] = sampling.minP;
    arrays.seed.set(sampling.seed, 2 * output);
    arrays.position[output] = numTokens;
  }

  #samplingViews({ sequences, numOutputs }: ScheduledStep): StepInput["sampling"] {
    const sampled = sequences.filter(({ isSampled }) => isSampled);
    const { temperature, topK, topP, minP, seed, position } = this.#requests;
    return {
      temperature: temperature.subarray(0, numOutputs),
      topK: topK.subarray(0, numOutputs),
      topP: topP.subarray(0, numOutputs),
      minP: minP.subarray(0, numOutputs),
      seed: seed.subarray(0, 2 * numOutputs),
      position: position.subarray(0, numOutputs),
      ...packOptional(sampled.map(({ sequence }) => sequence)),
    };
  }
}

/** Each int32 [capacity]. */
interface TokenArrays {
  readonly tokenIds: Int32Array;
  readonly positions: Int32Array;
}

function tokenArrays(capacity: number): TokenArrays {
  return {
    tokenIds: new Int32Array(capacity),
    positions: new Int32Array(capacity),
  };
}

type RequestArrays = ReturnType<typeof requestArrays>;

/** The arrays that every step has. */
type CommonSampling = Omit<SamplingInput, "targets" | "numLogprobs" | "controls">;

/** A request has at most one output row, so that the arrays of both have one capacity. */
function requestArrays(
  capacity: number,
): Pick<StepInput, "queryStartLoc" | "seqLens" | "outputRows"> & CommonSampling {
  return {
    queryStartLoc: new Int32Array(capacity + 1),
    seqLens: new Int32Array(capacity),
    outputRows: new Int32Array(capacity),
    temperature: new Float32Array(capacity),
    topK: new Int32Array(capacity),
    topP: new Float32Array(capacity),
    minP: new Float32Array(capacity),
    seed: new Uint32Array(2 * capacity),
    position: new Int32Array(capacity),
  };
}
