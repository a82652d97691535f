import { at, rowOf, type Matrix } from "./matrix.js";

/**
 * Rotary position embedding (Su et al. 2021, arXiv:2104.09864) of the first rotaryDim columns of each head:
 * (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin), where x2 stands rotaryDim / 2 behind x1, or next to it if interleaved.
 * Other columns are copied. `out` may be `x`.
 */
export function rope(
  out: Matrix, // [tokens, heads * headDim]
  x: Matrix, // [tokens, heads * headDim]
  table: Matrix, // [tokens, rotaryDim]: cosines, then sines
  options: { headDim: number; rotaryDim: number; interleaved: number },
): void {
  const { headDim, rotaryDim, interleaved } = options;
  const half = rotaryDim / 2;
  for (let token = 0; token < out.rows; token++) {
    const source = rowOf(x, token);
    const target = rowOf(out, token);
    const angles = rowOf(table, token);
    for (let head = 0; head < out.width; head += headDim) {
      for (let i = 0; i < half; i++) {
        const first = head + (interleaved ? 2 * i : i);
        const second = first + (interleaved ? 1 : half);
        const [x1, x2] = [at(source, first), at(source, second)];
        const [cos, sin] = [at(angles, i), at(angles, half + i)];
        target[first] = x1 * cos - x2 * sin;
        target[second] = x2 * cos + x1 * sin;
      }
      for (let i = head + rotaryDim; i < head + headDim; i++) target[i] = at(source, i);
    }
  }
}
