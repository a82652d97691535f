import { at, rowOf, type Matrix } from "./matrix.js";

/** out[s] = x[rows[s]] */
export function takeRows(
  out: Matrix, // [outputs, width]
  x: Matrix, // [tokens, width]
  rows: Int32Array, // [outputs], each in [0, tokens)
): void {
  for (let row = 0; row < out.rows; row++) rowOf(out, row).set(rowOf(x, at(rows, row)));
}
