import { at, rowOf, type Matrix } from "./matrix.js";

/**
 * Angles of rotary embeddings: angle = position * frequency[i] in single precision (as every checkpoint was trained), then
 * out[t][i] = cos(angle) * scaling and out[t][rotaryDim / 2 + i] = sin(angle) * scaling.
 */
export function ropeTable(
  out: Matrix, // [tokens, rotaryDim]
  positions: Int32Array, // [tokens]
  frequency: Float32Array, // [rotaryDim / 2]
  { scaling }: { scaling: number },
): void {
  const half = frequency.length;
  for (let token = 0; token < out.rows; token++) {
    const target = rowOf(out, token);
    for (let i = 0; i < half; i++) {
      const angle = Math.fround(Math.fround(at(positions, token)) * at(frequency, i));
      target[i] = Math.cos(angle) * scaling;
      target[half + i] = Math.sin(angle) * scaling;
    }
  }
}
