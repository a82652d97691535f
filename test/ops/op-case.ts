import type { StepInput } from "../../lib/engine/step.js";
import type { FileDtype, WeightDtype } from "../../lib/graph/dtypes.js";
import { opSpecs, type Op } from "../../lib/graph/ops.js";
import type { KvShape, Operand, Plan, PlanStep, Rows, WeightKind } from "../../lib/graph/plan.js";
import type { KvCacheOptions } from "../../lib/native.js";

/** A tensor of the arena, by name. */
export interface CaseTensor {
  readonly rows: Rows;
  readonly width: number;
  /** Written by the case's ops: compared with the reference. Others must not change. @default false */
  readonly isOutput?: boolean;
}

export interface CaseWeight {
  readonly kind: WeightKind;
  readonly rows: number;
  readonly cols: number;
  readonly data: Float32Array;
  /** What a file holds, `data` being its values. Native backends read it, and the weight has its dtype in memory. */
  readonly file?: { readonly dtype: FileDtype; readonly bytes: Uint8Array };
}

/** One call of an op; tensors and weights by name. */
export interface CaseOp {
  readonly op: Op;
  readonly inputs: readonly string[];
  readonly output?: string;
  readonly weights?: readonly (string | undefined)[];
  readonly attributes?: Readonly<Record<string, number>>;
}

/** Inputs of one run. */
export interface CaseRun {
  readonly step: StepInput;
  /** Rows `[tokens | outputs, width]` of tensors; what is not given is NaN. */
  readonly data: Readonly<Record<string, Float32Array>>;
}

/** Ops on tensors that are filled by hand. The runs share the KV cache; the arena is compared after the last one. */
export interface OpCase {
  readonly name: string;
  readonly tensors: Readonly<Record<string, CaseTensor>>;
  readonly weights?: Readonly<Record<string, CaseWeight>>;
  readonly ops: readonly CaseOp[];
  readonly kv?: { readonly layer: KvShape } & KvCacheOptions;
  readonly vocabSize?: number;
  readonly runs: readonly CaseRun[];
  /** Inputs of linears are of eight bits already, so that products with quantised weights do not round them. */
  readonly hasCodesAsInputs?: boolean;
}

/** How tensors lie in the arena: one after the other, or in odd places with odd strides like a range of columns. */
export type Layout = "packed" | "strided";

/** Around and between all tensors: a number that no case uses. */
export const sentinel = -7777.25;

export interface CasePlan {
  readonly plan: Plan;
  /** In the order of `plan.weights`. */
  readonly weights: readonly Float32Array[];
  /** Beside `weights`, where native backends read a file. */
  readonly files: readonly CaseWeight["file"][];
  readonly operands: Readonly<Record<string, Operand>>;
}

export function planCase(opCase: OpCase, dtype: WeightDtype, layout: Layout): CasePlan {
  const maxTokens = Math.max(...opCase.runs.map((run) => run.step.tokenIds.length)) + 1;
  const maxOutputs = Math.max(...opCase.runs.map((run) => run.step.outputRows.length)) + 1;
  const vocabSize = opCase.vocabSize ?? 2;
  const place = createPlacement(layout, { tokens: maxTokens, outputs: maxOutputs });
  const operands = Object.fromEntries(
    Object.entries(opCase.tensors).map(([name, tensor]) => [name, place.next(tensor)]),
  );
  const logits = operands["logits"] ?? place.next({ rows: "outputs", width: vocabSize });
  const named = Object.entries(opCase.weights ?? {});
  const plan: Plan = {
    steps: opCase.ops.map((op, index) =>
      planStep(
        op,
        index,
        operands,
        named.map(([name]) => name),
      ),
    ),
    weights: named.map(([name, { kind, rows, cols, data, file }]) => {
      const inMemory = (file?.dtype.toLowerCase() ?? dtype) as WeightDtype;
      const source = { data };
      return { name, kind, rows, cols, dtype: kind === "vector" ? "f32" : inMemory, source };
    }),
    kvLayers: opCase.kv === undefined ? [] : [{ ...opCase.kv.layer, group: 0, slot: 0 }],
    kvGroups: [{ slidingWindow: 0 }],
    arenaBytes: place.bytes(),
    maxTokens,
    maxOutputs,
    vocabSize,
    logits,
  };
  const weights = named.map(([, weight]) => weight.data);
  return { plan, weights, files: named.map(([, { file }]) => file), operands };
}

function planStep(
  { op, inputs, output, weights = [], attributes = {} }: CaseOp,
  index: number,
  operands: Readonly<Record<string, Operand>>,
  weightNames: readonly string[],
): PlanStep {
  const operand = (name: string): Operand => operands[name] as Operand;
  return {
    op,
    name: `${index}.${op}`,
    inputs: inputs.map(operand),
    ...(output === undefined ? {} : { output: operand(output) }),
    weights: opSpecs[op].weights.map((_, index) => {
      const name = weights[index];
      return name === undefined ? undefined : weightNames.indexOf(name);
    }),
    attributes,
  };
}

function createPlacement(layout: Layout, maxRows: Readonly<Record<Rows, number>>) {
  const gap = 16; // elements of sentinels before and after each tensor
  let end = gap;
  return {
    next({ rows, width }: CaseTensor): Operand {
      const start = layout === "packed" ? end : end + 3;
      const rowStride = layout === "packed" ? width : width + 5;
      end = Math.ceil((start + maxRows[rows] * rowStride + gap) / 16) * 16;
      return { offset: 4 * start, rows, width, rowStride };
    },
    bytes: (): number => 4 * end,
  };
}

/** Indices of the arena's elements that belong to the rows of a tensor in this step, row after row. */
export function elementsOf(operand: Operand, step: StepInput): number[] {
  const rows = operand.rows === "tokens" ? step.tokenIds.length : step.outputRows.length;
  const indices: number[] = [];
  for (let row = 0; row < rows; row++) {
    const start = operand.offset / 4 + row * operand.rowStride;
    for (let i = 0; i < operand.width; i++) indices.push(start + i);
  }
  return indices;
}

/** The arena before a run: sentinels, and in the tensors their data or NaN. */
export function arenaImage({ plan, operands }: CasePlan, run: CaseRun): Float32Array {
  const image = new Float32Array(plan.arenaBytes / 4).fill(sentinel);
  for (const [name, operand] of Object.entries(operands)) {
    const data = run.data[name];
    const indices = elementsOf(operand, run.step);
    if (data !== undefined && data.length !== indices.length) {
      throw new Error(`${name} needs ${indices.length} elements but has ${data.length}`);
    }
    for (const [i, index] of indices.entries()) image[index] = data?.[i] ?? NaN;
  }
  return image;
}
