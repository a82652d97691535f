/** Rows of an array `[rows, width]`. */
export function rowsOf(data: Float32Array, width: number): Float32Array[] {
  return Array.from({ length: data.length / width }, (_, row) =>
    data.subarray(row * width, (row + 1) * width),
  );
}

export interface PlainOptions {
  readonly scale: number;
  readonly slidingWindow?: number;
  readonly softcap?: number;
  /** A score without a value. @default none */
  readonly sink?: number;
}

/** Softmax attention of one query to keys and values, in float64: the textbook, without tiles. */
export function attendTo(
  query: ArrayLike<number>,
  keys: readonly ArrayLike<number>[],
  values: readonly ArrayLike<number>[],
  { scale, slidingWindow = 0, softcap = 0, sink = -Infinity }: PlainOptions,
): number[] {
  const first = slidingWindow > 0 ? Math.max(0, keys.length - slidingWindow) : 0;
  const scores = keys.slice(first).map((key) => {
    let score = 0;
    for (let i = 0; i < query.length; i++) score += (query[i] as number) * (key[i] as number);
    score *= scale;
    return softcap > 0 ? softcap * Math.tanh(score / softcap) : score;
  });
  const largest = Math.max(...scores, sink);
  const weights = scores.map((score) => Math.exp(score - largest));
  const sum = weights.reduce((a, b) => a + b, Math.exp(sink - largest));
  return Array.from({ length: values[0]?.length ?? 0 }, (_, d) =>
    weights.reduce(
      (total, weight, i) => total + (weight / sum) * (values[first + i]?.[d] as number),
      0,
    ),
  );
}

export function largestDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let largest = a.length === b.length ? 0 : Infinity;
  for (let i = 0; i < a.length; i++) {
    const difference = Math.abs((a[i] as number) - (b[i] as number));
    largest = Math.max(largest, Number.isNaN(difference) ? Infinity : difference);
  }
  return largest;
}
