/** Counts values by size, as a Prometheus histogram. */
export class Histogram {
  readonly #bounds: readonly number[];
  /** Values at most as large as the bound of the same index, and larger than the one before; the last: above all. */
  readonly #counts: number[];
  #sum = 0;

  /** @param bounds - upper bounds of the buckets, ascending */
  constructor(bounds: readonly number[]) {
    this.#bounds = bounds;
    this.#counts = Array.from({ length: bounds.length + 1 }, () => 0);
  }

  observe(value: number): void {
    const index = this.#bounds.findIndex((bound) => value <= bound);
    this.#counts[index < 0 ? this.#bounds.length : index]!++;
    this.#sum += value;
  }

  /**
   * The samples in Prometheus' text format: cumulative buckets, sum and count.
   *
   * @param labels - such as `model_name="demo"`
   */
  samples(name: string, labels: string): string[] {
    let count = 0;
    const buckets = this.#counts.map((inBucket, i) => {
      count += inBucket;
      return `${name}_bucket{${labels},le="${this.#bounds[i] ?? "+Inf"}"} ${count}`;
    });
    return [...buckets, `${name}_sum{${labels}} ${this.#sum}`, `${name}_count{${labels}} ${count}`];
  }
}
