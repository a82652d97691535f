import { opSpecs } from "./ops.js";
import type { KvLayer, Operand, Plan, PlanStep, PlanWeight, WeightPart } from "./plan.js";

/**
 * The plan as text, one line a weight, KV layer and step, for people and for snapshots. An operand reads
 * `[rows, width] @offset` with the arena offset in bytes, and `/stride` where rows are not contiguous. A part of a weight reads
 * `tensor[first:end]` by its rows, or `tensor @first/row,col` by its first element and its strides in elements.
 */
export function planToString(plan: Plan): string {
  const { maxTokens, maxOutputs, arenaBytes } = plan;
  return [
    `plan: tokens <= ${maxTokens}, outputs <= ${maxOutputs}, arena ${arenaBytes} bytes`,
    "weights",
    ...plan.weights.map((weight, index) => `  #${index} ${weightLine(weight)}`),
    "kv cache",
    ...plan.kvLayers.map((kv, layer) => `  ${layer}: ${kvLayerText(plan, kv)}`),
    "steps",
    ...plan.steps.map((step) => `  ${stepLine(step)}`),
    `logits ${operandText(plan.logits)}`,
    "",
  ].join("\n");
}

/** Group and slot where they say something: a plan with one group has a slot for each layer. */
function kvLayerText({ kvGroups }: Plan, layer: KvLayer): string {
  const { numKvHeads, headDim, latentDim, group, slot } = layer;
  const shape =
    latentDim === undefined
      ? `${numKvHeads} heads of ${headDim}`
      : `latent ${latentDim}, rope key ${headDim - latentDim}`;
  if (kvGroups.length === 1) return shape;
  const { slidingWindow = 0 } = kvGroups[group] ?? {};
  const window = slidingWindow === 0 ? "all tokens" : `window ${slidingWindow}`;
  return `${shape}, slot ${slot} of group ${group} (${window})`;
}

function weightLine({ name, kind, rows, cols, dtype, source }: PlanWeight): string {
  const parts = "data" in source ? "constant" : source.parts.map(partText).join(" + ");
  return `${name}: ${kind} [${rows}, ${cols}] ${dtype} = ${parts}`;
}

function partText(part: WeightPart): string {
  if (part.strides !== undefined) {
    const { first, row, col } = part.strides;
    return `${part.tensor} @${first}/${row},${col}`;
  }
  const whole = part.shape.length === 1 || part.rows === part.shape[0];
  return whole ? part.tensor : `${part.tensor}[${part.rowStart}:${part.rowStart + part.rows}]`;
}

function stepLine(step: PlanStep): string {
  const spec = opSpecs[step.op];
  const operands = [
    ...step.inputs.map((input, index) => `${spec.inputs[index]} ${operandText(input)}`),
    ...step.weights.flatMap((weight, index) =>
      weight === undefined ? [] : `${spec.weights[index]?.replace("?", "")} #${weight}`,
    ),
    ...Object.entries(step.attributes).map(([name, value]) => `${name}=${numberText(value)}`),
  ];
  const output = step.output === undefined ? "" : ` -> ${operandText(step.output)}`;
  return `${step.name}: ${step.op}(${operands.join(", ")})${output}`;
}

function operandText({ offset, rows, width, rowStride }: Operand): string {
  const stride = rowStride === width ? "" : `/${rowStride}`;
  return `[${rows}, ${width}] @${offset}${stride}`;
}

/** At most seven digits: attributes are single precision in the end. */
function numberText(value: number): string {
  return String(Number(value.toPrecision(7)));
}
