import type { WeightDtype } from "../graph/dtypes.js";
import { opSpecs, type Op } from "../graph/ops.js";
import type { KvShape, Operand, Plan, PlanStep, PlanWeight, Rows } from "../graph/plan.js";

/** One op with tensors of its own: f32 `[tokens, width]`. */
export interface KernelStep {
  readonly op: Op;
  /** Widths, in the order of the op's inputs. */
  readonly inputs: readonly number[];
  /** Width; absent where the op only writes the cache. */
  readonly output?: number;
  /** Indices of weights, in the order of the op's. */
  readonly weights?: readonly (number | undefined)[];
  readonly attributes: Readonly<Record<string, number>>;
}

/** A weight that the caller has: float32 `[rows, cols]`. */
export interface KernelWeight {
  readonly name: string;
  readonly kind: "matrix" | "vector";
  readonly rows: number;
  readonly cols: number;
  readonly dtype: WeightDtype;
  readonly data: Float32Array;
}

export interface KernelPlanOptions {
  readonly steps: readonly KernelStep[];
  readonly weights: readonly KernelWeight[];
  readonly layer: KvShape;
  /** Tokens that one attends to, itself included; 0: all. */
  readonly slidingWindow: number;
  /** Of one call at most. */
  readonly maxTokens: number;
}

/** A plan whose steps are run one at a time: no tensor is another step's. */
export function planKernels(options: KernelPlanOptions): Plan {
  const { steps, weights, layer, slidingWindow, maxTokens } = options;
  let end = 0;
  const place = (rows: Rows, width: number): Operand => {
    const operand = { offset: 4 * end, rows, width, rowStride: width };
    end += Math.ceil(((rows === "tokens" ? maxTokens : 1) * width) / 16) * 16;
    return operand;
  };
  return {
    steps: steps.map((step, index) => planStep(step, index, place)),
    weights: weights.map(planWeight),
    kvLayers: [{ ...layer, group: 0, slot: 0 }],
    kvGroups: [{ slidingWindow }],
    logits: place("outputs", 1),
    vocabSize: 1,
    maxOutputs: 1,
    maxTokens,
    arenaBytes: 4 * end,
  };
}

function planStep(
  { op, inputs, output, weights = [], attributes }: KernelStep,
  index: number,
  place: (rows: Rows, width: number) => Operand,
): PlanStep {
  const step = {
    op,
    name: `${index}.${op}`,
    inputs: inputs.map((width) => place("tokens", width)),
    weights: opSpecs[op].weights.map((_, i) => weights[i]),
    attributes,
  };
  return output === undefined ? step : { ...step, output: place("tokens", output) };
}

function planWeight({ data, ...weight }: KernelWeight): PlanWeight {
  return { ...weight, source: { data } };
}
