import { argumentError, assert } from "../errors.js";
import { layOutArena } from "./arena.js";
import { chooseDtype, modelDtypes, type ChooseDtype, type ModelDtype } from "./choose-dtype.js";
import { isQuantized } from "./dtypes.js";
import type { Graph, Tensor } from "./graph.js";
import { groupKvLayers, type WindowedLayer } from "./kv-groups.js";
import { opSpecs } from "./ops.js";
import type { Plan, PlanStep, PlanWeight } from "./plan.js";

export interface CompileOptions {
  /** Tokens in one step at most, 1 to 2^20. */
  readonly maxTokens: number;
  /** Rows that need logits in one step at most, 1 to 2^20. */
  readonly maxOutputs: number;
  /** Type of matrices and tables in device memory, for all or for each that does not bring its own. */
  readonly dtype: ModelDtype | ChooseDtype;
}

const maxRows = 2 ** 20;

/**
 * Turns a graph, whose last step must be `sample`, into a plan: the same steps with places in one arena.
 * @throws PagodaError ERR_ARGUMENT for a bad option
 */
export function compile(graph: Graph, options: CompileOptions): Plan {
  checkOptions(options);
  const { maxTokens, maxOutputs, dtype } = options;
  const logits = graph.steps.at(-1)?.op === "sample" ? graph.steps.at(-1)?.inputs[0] : undefined;
  assert(logits !== undefined, "the last step of a graph is `sample`");
  const arena = layOutArena(graph, { tokens: maxTokens, outputs: maxOutputs });
  const steps = graph.steps.map((step): PlanStep => {
    assertMatchesSpec(step);
    const { op, name, weights, attributes } = step;
    const inputs = step.inputs.map((input) => arena.operand(input));
    const output = step.output === undefined ? {} : { output: arena.operand(step.output) };
    return { op, name, inputs, ...output, weights, attributes };
  });
  return {
    steps,
    weights: typedWeights(graph, logits, dtype),
    ...groupKvLayers(windowedLayers(graph)),
    arenaBytes: arena.bytes,
    maxTokens,
    maxOutputs,
    vocabSize: logits.width,
    logits: arena.operand(logits),
  };
}

function typedWeights(
  graph: Graph,
  logits: Tensor,
  dtype: CompileOptions["dtype"],
): readonly PlanWeight[] {
  const choose = typeof dtype === "function" ? dtype : chooseDtype(dtype);
  const head = graph.values[logits.value]?.step;
  const vocabulary = new Set(
    graph.steps.flatMap(({ op, weights }, step) =>
      op === "embed" || step === head ? weights : [],
    ),
  );
  const routers = routerWeights(graph);
  return graph.weights.all.map((weight, index) => {
    if (weight.kind === "vector") return { ...weight, dtype: "f32" };
    const chosen = weight.dtype ?? choose(weight, vocabulary.has(index));
    const isRounded = routers.has(index) && weight.dtype === undefined && isQuantized(chosen);
    return { ...weight, dtype: isRounded ? "bf16" : chosen };
  });
}

/** Weights that give the logits of `route`. They are small, and an error in them chooses another expert. */
function routerWeights({ steps, values }: Graph): ReadonlySet<number | undefined> {
  const routes = steps.filter(({ op }) => op === "route");
  const producers = routes.flatMap(({ inputs }) => inputs.map(({ value }) => values[value]?.step));
  return new Set(producers.flatMap((step) => steps[step ?? -1]?.weights ?? []));
}

/** A layer has the largest window of the attentions to it; none if one has none. */
function windowedLayers({ kvLayers, steps }: Graph): WindowedLayer[] {
  const windows = new Map<number, number>();
  for (const { op, attributes } of steps) {
    if (op !== "attention") continue;
    const { layer = 0, slidingWindow = 0 } = attributes;
    const other = windows.get(layer) ?? slidingWindow;
    windows.set(layer, slidingWindow === 0 || other === 0 ? 0 : Math.max(slidingWindow, other));
  }
  return kvLayers.map((shape, layer) => ({ ...shape, slidingWindow: windows.get(layer) ?? 0 }));
}

function checkOptions({ maxTokens, maxOutputs, dtype }: CompileOptions): void {
  for (const [name, value] of Object.entries({ maxTokens, maxOutputs })) {
    if (!Number.isInteger(value) || value < 1 || value > maxRows) {
      throw argumentError(name, `an integer in [1, ${maxRows}]`, value);
    }
  }
  if (typeof dtype !== "function" && !modelDtypes.includes(dtype)) {
    throw argumentError("dtype", '"f32", "bf16", "q8" or "q4"', dtype);
  }
}

/** The operands of a step are those that the op table lists. */
function assertMatchesSpec(step: Graph["steps"][number]): void {
  const spec = opSpecs[step.op];
  assert(step.inputs.length === spec.inputs.length, `${step.name} has the inputs of ${step.op}`);
  assert(step.weights.length === spec.weights.length, `${step.name} has the weights of ${step.op}`);
  assert(
    (step.output !== undefined) === spec.hasOutput,
    `${step.name} has the output of ${step.op}`,
  );
  const attributes = Object.keys(step.attributes).sort().join();
  const expected = [...spec.attributes].sort().join();
  assert(attributes === expected, `${step.name} has the attributes of ${step.op}`);
}
