/** A two-dimensional float32 tensor `[rows, width]` inside a buffer. */
export interface Matrix {
  readonly data: Float32Array;
  /** Element of row 0, column 0. */
  readonly start: number;
  readonly rows: number;
  readonly width: number;
  /** Elements from one row to the next, at least `width`. */
  readonly rowStride: number;
}

/** A whole array as a matrix of rows of `width`. */
export function matrix(data: Float32Array, width: number): Matrix {
  return { data, start: 0, rows: data.length / width, width, rowStride: width };
}

/** A view of row `row`, `[width]`. */
export function rowOf(x: Matrix, row: number): Float32Array {
  const start = x.start + row * x.rowStride;
  return x.data.subarray(start, start + x.width);
}

/** Views of all rows. */
export function rowsOf(x: Matrix): Float32Array[] {
  return Array.from({ length: x.rows }, (_, row) => rowOf(x, row));
}

/** a . b */
export function dot(a: Float32Array, b: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += at(a, i) * at(b, i);
  return sum;
}

/** The element of an array of numbers at an index that is known to be inside. */
export function at(values: ArrayLike<number>, index: number): number {
  return values[index] as number;
}

/** Nearest bfloat16, ties to even, as float32. NaN and infinities stay what they are. */
export function roundToBf16(values: Float32Array): Float32Array {
  const bits = new Uint32Array(values.slice().buffer);
  for (let i = 0; i < bits.length; i++) {
    const word = at(bits, i);
    if (Number.isFinite(values[i])) bits[i] = (word + 0x7fff + ((word >>> 16) & 1)) & 0xffff0000;
    else bits[i] = Number.isNaN(values[i]) ? 0x7fc00000 : word;
  }
  return new Float32Array(bits.buffer);
}
