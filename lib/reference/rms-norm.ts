import { at, rowOf, type Matrix } from "./matrix.js";

/**
 * Root mean square norm (Zhang and Sennrich 2019, arXiv:1910.07467) of each row and each group of groupWidth columns:
 * out = x / sqrt(mean(x^2) + eps) * (weight + weightOffset). `out` may be `x`.
 */
export function rmsNorm(
  out: Matrix, // [rows, width]
  x: Matrix, // [rows, width]
  weight: Float32Array, // [groupWidth]
  { groupWidth, eps, weightOffset }: { groupWidth: number; eps: number; weightOffset: number },
): void {
  for (let row = 0; row < out.rows; row++) {
    const source = rowOf(x, row);
    const target = rowOf(out, row);
    for (let group = 0; group < out.width; group += groupWidth) {
      let squares = 0;
      for (let i = 0; i < groupWidth; i++) squares += at(source, group + i) ** 2;
      const factor = 1 / Math.sqrt(squares / groupWidth + eps);
      for (let i = 0; i < groupWidth; i++) {
        target[group + i] = at(source, group + i) * factor * (at(weight, i) + weightOffset);
      }
    }
  }
}
