import { describe, expect, it } from "vitest";
import type { StepOutput } from "../../lib/engine/step.js";
import { isQuantized, type WeightDtype } from "../../lib/graph/dtypes.js";
import type { Op } from "../../lib/graph/ops.js";
import { unlessUnsupported } from "../support/devices.js";
import { opBackends, reference, type CaseResult, type OpBackend } from "./backends.js";
import {
  arenaImage,
  elementsOf,
  planCase,
  type CasePlan,
  type CaseRun,
  type Layout,
  type OpCase,
} from "./op-case.js";

/** Allowed: |actual - expected| <= absolute + relative * |expected| for each element, and 1 - cosine of each tensor. */
interface Tolerance {
  readonly absolute: number;
  readonly relative: number;
  readonly cosine: number;
}

const exact: Tolerance = { absolute: 0, relative: 0, cosine: 1e-12 };

/** Log-probabilities; -Infinity must be equal, and has no cosine. */
const logprobs: Tolerance = { absolute: 1e-5, relative: 1e-6, cosine: Infinity };

/** What is tested: an op, or block copies, which are an input of the step and no op of the plan. */
type Subject = Op | "copyBlocks";

/** Operands are about 1 in size. The one place where the accuracy of kernels is stated. */
const tolerances: Readonly<Record<Subject, Tolerance>> = {
  embed: exact,
  add: exact,
  takeRows: exact,
  cacheWrite: exact,
  sample: exact,
  rmsNorm: { absolute: 1e-6, relative: 2e-6, cosine: 1e-10 },
  linear: { absolute: 1e-5, relative: 1e-5, cosine: 1e-9 },
  ropeTable: { absolute: 2e-7, relative: 1e-6, cosine: 1e-10 },
  rope: { absolute: 1e-6, relative: 1e-6, cosine: 1e-10 },
  attention: { absolute: 1e-5, relative: 1e-5, cosine: 1e-9 },
  latentWrite: exact,
  gatherKv: exact,
  mlaAttention: { absolute: 1e-5, relative: 1e-5, cosine: 1e-9 },
  copyBlocks: { absolute: 1e-5, relative: 1e-5, cosine: 1e-9 }, // read back by attention
  gatedActivation: { absolute: 1e-6, relative: 2e-6, cosine: 1e-10 },
  route: { absolute: 1e-6, relative: 2e-6, cosine: 1e-10 },
  experts: { absolute: 2e-5, relative: 2e-5, cosine: 1e-9 },
};

/**
 * AVX-512 rounds activations (linear), queries and probabilities (attention) to bf16 where the other operand is bf16 or, in an
 * int8 cache, a code: so a value that is read back by attention has an error of up to 2^-8 of it.
 */
const bf16Tolerances: Readonly<Partial<Record<Subject, Tolerance>>> = {
  linear: { absolute: 3e-2, relative: 1e-2, cosine: 1e-4 },
  experts: { absolute: 6e-2, relative: 2e-2, cosine: 2e-4 },
  attention: { absolute: 3e-2, relative: 1e-2, cosine: 1e-4 },
  mlaAttention: { absolute: 3e-2, relative: 1e-2, cosine: 1e-4 },
};

const int8CacheTolerances: Readonly<Partial<Record<Subject, Tolerance>>> = {
  attention: { absolute: 3e-2, relative: 1e-2, cosine: 1e-4 },
  mlaAttention: { absolute: 3e-2, relative: 1e-2, cosine: 1e-4 },
  cacheWrite: { absolute: 1e-6, relative: 2 ** -8, cosine: 1e-4 },
  copyBlocks: { absolute: 3e-2, relative: 1e-2, cosine: 1e-4 },
};

/**
 * Quantised weights: activations are rounded to 8 bits, 32 or 256 columns at a time, so the error of one is at most 1/254 of the
 * largest of them, and their errors in a sum are independent.
 */
const quantizedTolerances: Readonly<Partial<Record<Subject, Tolerance>>> = {
  linear: { absolute: 4e-2, relative: 1e-2, cosine: 1e-4 },
  experts: { absolute: 8e-2, relative: 2e-2, cosine: 5e-4 },
  mlaAttention: { absolute: 8e-2, relative: 2e-2, cosine: 5e-4 },
};

export interface ConformanceOptions {
  /** Types of matrices and tables. @default f32 only */
  readonly dtypes?: readonly WeightDtype[];
}

const backends = await opBackends();
const allBackends = await opBackends({ allGpus: true });
/** What a GPU with wgmma does by other kernels than one without. */
const differingSubjects: ReadonlySet<Subject> = new Set(["linear", "experts", "attention"]);
const layouts: readonly Layout[] = ["packed", "strided"];

/** Holds every backend to the reference on all cases, in both layouts. */
export function conformance(
  subject: Subject,
  cases: readonly OpCase[],
  options: ConformanceOptions = {},
): void {
  const { dtypes = ["f32"] } = options;
  const runs = cases.flatMap((opCase, i) =>
    dtypes.map((dtype, j) => {
      return { name: `${opCase.name}, ${dtype}`, opCase, dtype, index: i + j };
    }),
  );
  const expectation = rememberExpectations();
  describe.each(differingSubjects.has(subject) ? allBackends : backends)(
    `${subject} on $name`,
    (backend) => {
      it.for(runs)("$name", async ({ opCase, dtype, index }, { skip }) => {
        const tolerance = toleranceOf(subject, opCase, dtype, backend);
        // An emulator is slow: one layout a case, in turn.
        for (const layout of backend.isEmulated ? [layouts[index % 2]!] : layouts) {
          const { casePlan, expected } = await expectation(opCase, dtype, layout);
          await unlessUnsupported(backend, skip, async () => {
            const actual = await backend.run(opCase, casePlan);
            expectUntouched(opCase, casePlan, actual);
            expectClose(opCase, casePlan, actual, expected, tolerance);
          });
        }
      });
    },
  );
}

function toleranceOf(
  subject: Subject,
  opCase: OpCase,
  dtype: WeightDtype,
  { roundsWeights = false }: OpBackend,
): Tolerance {
  const isRounded = dtype === "bf16" || (roundsWeights && dtype === "f16");
  const isBf16 = isRounded || opCase.kv?.dtype === "bf16";
  const fromFile = Object.values(opCase.weights ?? {}).some(({ file }) => file !== undefined);
  const hasCodes = opCase.hasCodesAsInputs === true && !roundsWeights;
  const rounds = (fromFile || isQuantized(dtype)) && !hasCodes;
  const ofCache = opCase.kv?.dtype === "int8" ? int8CacheTolerances : isBf16 ? bf16Tolerances : {};
  const special = { ...ofCache, ...(rounds ? quantizedTolerances : {}) };
  return special[subject] ?? tolerances[subject];
}

/** The reference's result, computed once for all backends. */
type Expectation = (
  opCase: OpCase,
  dtype: WeightDtype,
  layout: Layout,
) => Promise<{ casePlan: CasePlan; expected: CaseResult }>;

function rememberExpectations(): Expectation {
  const results = new Map<OpCase, Map<string, ReturnType<Expectation>>>();
  const compute: Expectation = async (opCase, dtype, layout) => {
    const casePlan = planCase(opCase, dtype, layout);
    const expected = await reference.run(opCase, casePlan);
    expectUntouched(opCase, casePlan, expected);
    return { casePlan, expected };
  };
  return (opCase, dtype, layout) => {
    const ofCase = results.get(opCase) ?? new Map<string, ReturnType<Expectation>>();
    results.set(opCase, ofCase);
    const key = `${dtype} ${layout}`;
    const result = ofCase.get(key) ?? compute(opCase, dtype, layout);
    ofCase.set(key, result);
    return result;
  };
}

/** All but the output tensors is, bit for bit, as it was before the run. `sample` may overwrite its logits. */
function expectUntouched(opCase: OpCase, casePlan: CasePlan, { arena }: CaseResult): void {
  const { image, isOutput } = before(opCase, casePlan);
  const bits = new Int32Array(arena.buffer, arena.byteOffset, arena.length);
  const imageBits = new Int32Array(image.buffer);
  const touched = [...bits.keys()].filter((i) => isOutput[i] === 0 && bits[i] !== imageBits[i]);
  expect(touched, "elements outside the outputs that changed").toEqual([]);
}

function before(opCase: OpCase, casePlan: CasePlan): { image: Float32Array; isOutput: Uint8Array } {
  const run = lastRun(opCase);
  const image = arenaImage(casePlan, run);
  const isOutput = new Uint8Array(image.length);
  for (const [name, operand] of Object.entries(casePlan.operands)) {
    if (opCase.tensors[name]?.isOutput === true)
      for (const i of elementsOf(operand, run.step)) isOutput[i] = 1;
  }
  return { image, isOutput };
}

function expectClose(
  opCase: OpCase,
  casePlan: CasePlan,
  actual: CaseResult,
  expected: CaseResult,
  tolerance: Tolerance,
): void {
  expectSameOutput(lastRun(opCase), actual.output, expected.output);
  for (const [name, operand] of Object.entries(casePlan.operands)) {
    if (opCase.tensors[name]?.isOutput !== true || name === "logits") continue;
    const indices = elementsOf(operand, lastRun(opCase).step);
    compare(
      name,
      Float32Array.from(indices, (i) => actual.arena[i] ?? NaN),
      Float32Array.from(indices, (i) => expected.arena[i] ?? NaN),
      tolerance,
    );
  }
}

/** Tokens, ranks and ids are equal; log-probabilities nearly. Rows that want none hold anything. */
function expectSameOutput(run: CaseRun, actual?: StepOutput, expected?: StepOutput): void {
  expect(actual?.tokens).toEqual(expected?.tokens);
  expect(actual?.finite).toEqual(expected?.finite);
  expect(actual?.logprobs?.width).toBe(expected?.logprobs?.width);
  if (actual?.logprobs === undefined || expected?.logprobs === undefined) return;
  const [a, b] = [actual.logprobs, expected.logprobs];
  for (const [row, count] of run.step.sampling.numLogprobs!.entries()) {
    if (count < 0 || expected.finite[row] === 0) continue;
    const [start, end] = [row * b.width, (row + 1) * b.width];
    expect(a.rank[row], `rank of row ${row}`).toBe(b.rank[row]);
    expect(a.topIds.slice(start, end)).toEqual(b.topIds.slice(start, end));
    compare("logprob", a.logprob.slice(row, row + 1), b.logprob.slice(row, row + 1), logprobs);
    compare(
      "topLogprobs",
      a.topLogprobs.slice(start, end),
      b.topLogprobs.slice(start, end),
      logprobs,
    );
  }
}

/** Absolute, relative and cosine error; NaN equals NaN only. */
function compare(
  name: string,
  actual: Float32Array,
  expected: Float32Array,
  tolerance: Tolerance,
): void {
  const { absolute, relative, cosine } = tolerance;
  let [dot, squaresA, squaresB] = [0, 0, 0];
  for (const [i, b] of expected.entries()) {
    const a = actual[i] ?? NaN;
    const near = Math.abs(a - b) <= absolute + relative * Math.abs(b) || Object.is(a, b);
    if (!near) expect.fail(`${name}[${i}] is ${a} but should be ${b}`);
    [dot, squaresA, squaresB] = [dot + a * b, squaresA + a * a, squaresB + b * b];
  }
  const product = Math.sqrt(squaresA * squaresB);
  if (product > 0 && cosine < Infinity)
    expect(1 - dot / product, `1 - cosine of ${name}`).toBeLessThanOrEqual(cosine);
}

function lastRun(opCase: OpCase): OpCase["runs"][number] {
  return opCase.runs.at(-1) as OpCase["runs"][number];
}
