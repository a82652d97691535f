import type { Activation } from "../graph/ops.js";
import { activate, activationOf } from "./gated-activation.js";
import { at, dot, rowOf, type Matrix } from "./matrix.js";

export interface ExpertsWeights {
  readonly gate: Matrix; // [experts * width, inputs]
  readonly up: Matrix; // [experts * width, inputs]
  readonly down: Matrix; // [experts * outputs, width]
  readonly gateBias: Float32Array | undefined; // [experts * width]
  readonly upBias: Float32Array | undefined; // [experts * width]
  readonly downBias: Float32Array | undefined; // [experts * outputs]
}

/** out = sum over the slots of a row, in order, of weight * down(activation(gate(x), up(x))) of the slot's expert. */
export function experts(
  out: Matrix, // [rows, outputs]
  x: Matrix, // [rows, inputs]
  route: Matrix, // [rows, 2 * topK]: weights, then numbers of experts
  weights: ExpertsWeights,
  attributes: { readonly activation: number },
): void {
  const activation = activationOf(attributes.activation);
  const topK = route.width / 2;
  for (let row = 0; row < out.rows; row++) {
    const source = rowOf(x, row);
    const slots = rowOf(route, row);
    const sums = new Float64Array(out.width);
    for (let slot = 0; slot < topK; slot++) {
      const result = runExpert(source, at(slots, topK + slot), weights, activation, out.width);
      for (const [i, value] of result.entries()) sums[i] = at(sums, i) + at(slots, slot) * value;
    }
    rowOf(out, row).set(sums);
  }
}

function runExpert(
  x: Float32Array, // [inputs]
  expert: number,
  weights: ExpertsWeights,
  activation: Activation,
  outputs: number,
): number[] {
  const width = weights.down.width;
  const gates = product(x, weights.gate, weights.gateBias, expert * width, width);
  const ups = product(x, weights.up, weights.upBias, expert * width, width);
  const hidden = Float32Array.from(gates, (value, i) => activate(activation, value, at(ups, i)));
  return product(hidden, weights.down, weights.downBias, expert * outputs, outputs);
}

/** Rows `[first, first + rows)` of a weight times x. */
function product(
  x: Float32Array,
  weight: Matrix,
  bias: Float32Array | undefined,
  first: number,
  rows: number,
): number[] {
  return Array.from({ length: rows }, (_, i) => {
    const shift = bias === undefined ? 0 : at(bias, first + i);
    return dot(x, rowOf(weight, first + i)) + shift;
  });
}
