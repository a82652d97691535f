import { at, rowOf, type Matrix } from "./matrix.js";

/** out = a + b, all `[rows, width]`. `out` may be `a` or `b`. */
export function add(out: Matrix, a: Matrix, b: Matrix): void {
  for (let row = 0; row < out.rows; row++) {
    const [left, right, target] = [rowOf(a, row), rowOf(b, row), rowOf(out, row)];
    for (let i = 0; i < out.width; i++) target[i] = at(left, i) + at(right, i);
  }
}
