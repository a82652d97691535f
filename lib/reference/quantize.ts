import { PagodaError } from "../errors.js";
import type { QuantizedDtype } from "../graph/dtypes.js";
import { roundToEven, roundToHalf } from "./half.js";
import { at } from "./matrix.js";

const { abs, fround, max, min } = Math;

/** Of a group, which is what a scale and a minimum are for. */
const columns = 32;
/** The largest code of four bits. */
const levels = 15;

/**
 * The nearest values that a quantised type has, by single-precision arithmetic in the order of native/cpu/quantize-blocks.cc, so
 * that both choose the same codes. A block with a value that is not finite is NaN.
 *
 * @param values - whole blocks
 * @throws PagodaError ERR_BACKEND_UNSUPPORTED for types other than q8_0, q4_1 and q4_k: such weights come as they are
 */
export function roundToQuantized(values: Float32Array, dtype: QuantizedDtype): Float32Array {
  if (dtype === "q8_0") return eachBlock(values, columns, roundToQ8_0);
  if (dtype === "q4_1") return eachBlock(values, columns, roundToQ4_1);
  if (dtype === "q4_k") return eachBlock(values, 8 * columns, roundToQ4_K);
  throw new PagodaError("ERR_BACKEND_UNSUPPORTED", `Nothing is rounded to ${dtype}`);
}

function eachBlock(
  values: Float32Array,
  length: number,
  round: (block: Float32Array) => Float32Array,
): Float32Array {
  const result = new Float32Array(values.length).fill(NaN);
  for (let start = 0; start < values.length; start += length) {
    const block = values.subarray(start, start + length);
    if (block.every(Number.isFinite)) result.set(round(block), start);
  }
  return result;
}

/** The largest absolute value becomes code 127 or -127. */
function roundToQ8_0(block: Float32Array): Float32Array {
  const scale = roundToHalf(fround(block.reduce((a, b) => max(a, abs(b)), 0) / 127));
  return block.map((value) => {
    const size = scale > 0 ? nearest(fround(abs(value) / scale), 127) : 0;
    return scale * (value < 0 ? -size : size);
  });
}

function roundToQ4_1(block: Float32Array): Float32Array {
  const { scale, min } = chooseLine(block, false);
  return assign(block, { scale: roundToHalf(scale), min: roundToHalf(min) }).values;
}

/** The lines of eight groups, whose scales and minima are multiples, 0 to 63, of two numbers of the block. */
function roundToQ4_K(block: Float32Array): Float32Array {
  const factors = 63;
  const groups = Array.from({ length: 8 }, (_, g) => {
    return block.subarray(columns * g, columns * (g + 1));
  });
  const lines = groups.map((group) => chooseLine(group, true));
  const d = roundToHalf(fround(max(0, ...lines.map(({ scale }) => scale)) / factors));
  const dmin = roundToHalf(fround(max(0, ...lines.map((line) => -line.min)) / factors));
  const values = new Float32Array(block.length);
  for (const [g, line] of lines.entries()) {
    const scale = d > 0 ? nearest(fround(line.scale / d), factors) : 0;
    const min = dmin > 0 ? nearest(fround(-line.min / dmin), factors) : 0;
    values.set(assign(groups[g]!, { scale: d * scale, min: -dmin * min }).values, columns * g);
  }
  return values;
}

/** A line min + scale * code. */
interface Line {
  readonly scale: number;
  readonly min: number;
}

/** The codes nearest to the values, what they stand for, and the sum of the squared errors. */
function assign(
  group: Float32Array,
  line: Line,
): { codes: Uint8Array; values: Float32Array; error: number } {
  const inverse = line.scale > 0 ? fround(1 / line.scale) : 0;
  const codes = Uint8Array.from(group, (value) => {
    return nearest(fround(fround(value - line.min) * inverse), levels);
  });
  const values = Float32Array.from(codes, (code) => line.min + fround(line.scale * code));
  const error = sum(group.map((value, i) => fround(at(values, i) - value) ** 2));
  return { codes, values, error };
}

/** Adds the second half to the first, then the halves of that, and so on. */
function sum(values: Float32Array): number {
  const sums = values.slice();
  for (let width = sums.length / 2; width >= 1; width /= 2) {
    for (let i = 0; i < width; i++) sums[i] = at(sums, i) + at(sums, i + width);
  }
  return at(sums, 0);
}

/** The line of least squared error for these codes; with `atMostZero`, of those whose min is not positive. */
function fit(group: Float32Array, codes: Uint8Array, atMostZero: boolean, otherwise: Line): Line {
  const x = sum(Float32Array.from(codes));
  const xx = sum(Float32Array.from(codes, (code) => code * code));
  const y = sum(group);
  const xy = sum(group.map((value, i) => at(codes, i) * value));
  const determinant = columns * xx - x * x;
  if (determinant <= 0) return otherwise;
  const quotient = (a: number, b: number): number =>
    fround(fround(fround(a) - fround(b)) / determinant);
  let line = { scale: quotient(columns * xy, x * y), min: quotient(xx * y, x * xy) };
  if (atMostZero && line.min > 0) line = { scale: fround(xy / xx), min: 0 };
  return line.scale > 0 ? line : otherwise;
}

/**
 * Fits a line to the codes of the whole range and of narrower ones: fewer levels for outliers are finer steps for all others.
 * The one of least error wins.
 */
function chooseLine(group: Float32Array, atMostZero: boolean): Line {
  const high = group.reduce((a, b) => max(a, b), -Infinity);
  const smallest = group.reduce((a, b) => min(a, b), Infinity);
  const low = atMostZero ? min(smallest, 0) : smallest;
  const range = fround(high - low);
  let best: Line = { scale: fround(range / levels), min: low };
  let least = assign(group, best).error;
  for (const share of [0, 0.05, 0.1]) {
    const cut = fround(range * fround(share));
    const narrow = {
      scale: fround(fround(range - 2 * cut) / levels),
      min: low === 0 ? 0 : fround(low + cut),
    };
    const line = fit(group, assign(group, narrow).codes, atMostZero, narrow);
    const { error } = assign(group, line);
    if (error < least) [least, best] = [error, line];
  }
  return best;
}

/** The integer in [0, limit] nearest to a value. */
function nearest(value: number, limit: number): number {
  return value > 0 ? roundToEven(min(value, limit)) : 0;
}
