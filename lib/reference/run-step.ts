import type { StepInput, StepOutput } from "../engine/step.js";
import { assert } from "../errors.js";
import type { Op } from "../graph/ops.js";
import type { Operand, Plan, PlanStep } from "../graph/plan.js";
import { add } from "./add.js";
import { attention } from "./attention.js";
import { embed } from "./embed.js";
import { experts } from "./experts.js";
import { gatedActivation } from "./gated-activation.js";
import { gatherKv } from "./gather-kv.js";
import { cacheWrite, latentWrite, type KvCache } from "./kv-cache.js";
import { linear } from "./linear.js";
import { matrix, type Matrix } from "./matrix.js";
import { mlaAttention } from "./mla-attention.js";
import { rmsNorm } from "./rms-norm.js";
import { ropeTable } from "./rope-table.js";
import { rope } from "./rope.js";
import { route } from "./route.js";
import { sample } from "./sample.js";
import { takeRows } from "./take-rows.js";

/** What the ops of a plan work on. */
export interface Memory {
  readonly plan: Plan;
  readonly arena: Float32Array;
  /** In the order of {@link Plan.weights}. */
  readonly weights: readonly Float32Array[];
  /** By the slots of {@link Plan.kvLayers}. */
  readonly caches: readonly KvCache[];
}

/** Runs one step of a plan; `sample` alone returns something. */
export function runStep(memory: Memory, step: PlanStep, input: StepInput): StepOutput | undefined {
  return runners[step.op](new StepArguments(memory, step, input)) ?? undefined;
}

/** An operand of the arena with as many rows as the step's inputs ask for. */
export function operandMatrix(arena: Float32Array, operand: Operand, input: StepInput): Matrix {
  const rows = operand.rows === "tokens" ? input.tokenIds.length : input.outputRows.length;
  const { width, rowStride } = operand;
  return {
    data: arena,
    start: operand.offset / Float32Array.BYTES_PER_ELEMENT,
    rows,
    width,
    rowStride,
  };
}

/** Finds the operands of one step. Attributes that are missing are ERR_INTERNAL: plans come from the compiler. */
class StepArguments {
  readonly input: StepInput;
  readonly #memory: Memory;
  readonly #step: PlanStep;

  constructor(memory: Memory, step: PlanStep, input: StepInput) {
    this.#memory = memory;
    this.#step = step;
    this.input = input;
  }

  get out(): Matrix {
    return this.#operand(this.#step.output);
  }

  tensor(index: number): Matrix {
    return this.#operand(this.#step.inputs[index]);
  }

  /** A matrix or table, `[rows, cols]`. */
  weight(index: number): Matrix {
    const weight = this.#step.weights[index] ?? -1;
    return matrix(this.vector(index), this.#memory.plan.weights[weight]?.cols ?? 0);
  }

  vector(index: number): Float32Array {
    const vector = this.optionalVector(index);
    assert(vector !== undefined, `${this.#step.name} has weight ${index}`);
    return vector;
  }

  optionalVector(index: number): Float32Array | undefined {
    const weight = this.#step.weights[index];
    return weight === undefined ? undefined : this.#memory.weights[weight];
  }

  /** Scalars are single precision, as in native/backend.h. */
  attributes<const Names extends readonly string[]>(
    ...names: Names
  ): Record<Names[number], number> {
    const values = names.map((name) => {
      const value = this.#step.attributes[name];
      assert(value !== undefined, `${this.#step.name} has the attribute ${name}`);
      return [name, Number.isInteger(value) ? value : Math.fround(value)] as const;
    });
    return Object.fromEntries(values) as Record<Names[number], number>;
  }

  /** Where the step's layer keeps K and V, and its group's part of the block table and of the slot mapping. */
  get kv(): LayerKv {
    const { plan, caches } = this.#memory;
    const layer = plan.kvLayers[this.attributes("layer").layer];
    const cache = caches[layer?.slot ?? -1];
    assert(layer !== undefined && cache !== undefined, `${this.#step.name} has a KV layer`);
    const { blockTable, slotMapping } = this.input;
    return {
      cache,
      blockTable: groupPart(blockTable, layer.group, plan.kvGroups.length),
      slotMapping: groupPart(slotMapping, layer.group, plan.kvGroups.length),
    };
  }

  #operand(operand: Operand | undefined): Matrix {
    assert(operand !== undefined, `${this.#step.name} has all its operands`);
    return operandMatrix(this.#memory.arena, operand, this.input);
  }
}

interface LayerKv extends Pick<StepInput, "blockTable" | "slotMapping"> {
  readonly cache: KvCache;
}

/** The rows of one group in an array [numGroups, ...]. */
function groupPart(values: Int32Array, group: number, numGroups: number): Int32Array {
  const length = values.length / numGroups;
  return values.subarray(group * length, (group + 1) * length);
}

const runners: Record<Op, (step: StepArguments) => StepOutput | undefined | void> = {
  embed: (s) => embed(s.out, s.input.tokenIds, s.weight(0), s.attributes("scale")),
  rmsNorm: (s) =>
    rmsNorm(s.out, s.tensor(0), s.vector(0), s.attributes("groupWidth", "eps", "weightOffset")),
  linear: (s) => linear(s.out, s.tensor(0), s.weight(0), s.optionalVector(1)),
  ropeTable: (s) => ropeTable(s.out, s.input.positions, s.vector(0), s.attributes("scaling")),
  rope: (s) =>
    rope(s.out, s.tensor(0), s.tensor(1), s.attributes("headDim", "rotaryDim", "interleaved")),
  cacheWrite: (s) => {
    const { cache, slotMapping } = s.kv;
    cacheWrite(cache, s.tensor(0), s.tensor(1), slotMapping);
  },
  attention: (s) => {
    const attributes = s.attributes("numHeads", "scale", "slidingWindow", "softcap");
    const { cache, blockTable } = s.kv;
    const sinks = s.optionalVector(0);
    attention(s.out, s.tensor(0), cache, { ...s.input, blockTable }, { ...attributes, sinks });
  },
  latentWrite: (s) => {
    const { cache, slotMapping } = s.kv;
    latentWrite(cache, s.tensor(0), s.tensor(1), slotMapping);
  },
  mlaAttention: (s) => {
    const { cache, blockTable } = s.kv;
    const operands = { query: s.tensor(0), queryRope: s.tensor(1) };
    const weights = { keyUp: s.weight(0), valueUp: s.weight(1) };
    const attributes = s.attributes("numHeads", "scale");
    mlaAttention(s.out, { ...operands, ...weights }, cache, { ...s.input, blockTable }, attributes);
  },
  gatherKv: (s) => {
    const { cache, blockTable } = s.kv;
    gatherKv(s.out, cache, { ...s.input, blockTable });
  },
  gatedActivation: (s) =>
    gatedActivation(s.out, s.tensor(0), s.tensor(1), s.attributes("activation")),
  add: (s) => add(s.out, s.tensor(0), s.tensor(1)),
  route: (s) => {
    const choice = s.attributes("topK", "numGroups", "topGroups", "groupScore");
    const weights = s.attributes("scoring", "normalize", "scale");
    route(s.out, s.tensor(0), s.optionalVector(0), { ...choice, ...weights });
  },
  experts: (s) => {
    const matrices = { gate: s.weight(0), up: s.weight(1), down: s.weight(2) };
    const [gateBias, upBias, downBias] = [3, 4, 5].map((index) => s.optionalVector(index));
    const weights = { ...matrices, gateBias, upBias, downBias };
    experts(s.out, s.tensor(0), s.tensor(1), weights, s.attributes("activation"));
  },
  takeRows: (s) => takeRows(s.out, s.tensor(0), s.input.outputRows),
  sample: (s) => sample(s.tensor(0), s.input.sampling),
};
