import { at, dot, rowsOf, type Matrix } from "./matrix.js";

/** out = x * weight^T + bias */
export function linear(
  out: Matrix, // [rows, outputs]
  x: Matrix, // [rows, inputs]
  weight: Matrix, // [outputs, inputs]
  bias: Float32Array | undefined, // [outputs]
): void {
  const targets = rowsOf(out);
  const sources = rowsOf(x);
  for (const [output, weightRow] of rowsOf(weight).entries()) {
    const shift = bias === undefined ? 0 : at(bias, output);
    for (const [row, source] of sources.entries()) {
      (targets[row] as Float32Array)[output] = dot(source, weightRow) + shift;
    }
  }
}
