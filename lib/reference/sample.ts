import type { SamplingInput } from "../engine/step.js";
import { at, rowOf, type Matrix } from "./matrix.js";
import { philox4x32 } from "./philox.js";

/** Parameters of one row. */
export interface SamplingRow {
  /** 0 is greedy. */
  readonly temperature: number;
  /** 0 keeps all. */
  readonly topK: number;
  readonly topP: number;
  readonly minP: number;
  /** Low word, high word. */
  readonly seed: readonly [number, number];
  /** Absolute position of the token that is drawn. */
  readonly position: number;
}

/** Draws one token for each row of `logits` `[outputs, vocab]`; finite[s] is 0, and the token too, where a row is not finite. */
export function sample(
  logits: Matrix,
  sampling: SamplingInput,
): { tokens: Int32Array; finite: Int32Array } {
  const tokens = new Int32Array(logits.rows);
  const finite = new Int32Array(logits.rows);
  for (let row = 0; row < logits.rows; row++) {
    const token = drawToken(rowOf(logits, row), {
      temperature: at(sampling.temperature, row),
      topK: at(sampling.topK, row),
      topP: at(sampling.topP, row),
      minP: at(sampling.minP, row),
      seed: [at(sampling.seed, 2 * row), at(sampling.seed, 2 * row + 1)],
      position: at(sampling.position, row),
    });
    tokens[row] = token ?? 0;
    finite[row] = token === undefined ? 0 : 1;
  }
  return { tokens, finite };
}

/** The token drawn from `logits` `[vocab]`; undefined if they hold a NaN, +Infinity, or nothing but -Infinity. */
export function drawToken(logits: Float32Array, options: SamplingRow): number | undefined {
  if (!isFiniteRow(logits)) return undefined;
  if (options.temperature === 0) return argmax(logits);
  const probabilities = keptProbabilities(logits, options);
  const race = probabilities.map((p, token) => p / exponential(token, options));
  return argmax(race);
}

/**
 * Probability of each token, 0 where it is dropped; the kept ones are not normalised. In this order: temperature, minP
 * (drop p < minP * max p), topK (keep all >= the k-th value), topP (keep the fewest tokens, most probable first and lowest
 * id first among equals, whose share of what is left reaches topP).
 */
export function keptProbabilities(
  logits: Float32Array,
  options: Omit<SamplingRow, "seed" | "position">,
): Float64Array {
  const { temperature, minP, topK, topP } = options;
  const max = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const p = Float64Array.from(logits, (logit) => Math.exp((logit - max) / temperature)); // max p is 1
  for (const [token, value] of p.entries()) if (value < minP) p[token] = 0;
  if (topK > 0 && topK < p.length) {
    const threshold = at(logits.slice().sort().reverse(), topK - 1);
    for (const [token, logit] of logits.entries()) if (logit < threshold) p[token] = 0;
  }
  if (topP < 1) keepTopP(p, topP);
  return p;
}

function keepTopP(p: Float64Array, topP: number): void {
  const byProbability = [...p.keys()].sort((a, b) => at(p, b) - at(p, a) || a - b);
  const target = p.reduce((sum, value) => sum + value, 0) * topP;
  let sum = 0;
  for (const token of byProbability) {
    if (sum >= target) p[token] = 0;
    else sum += at(p, token);
  }
}

/** The token's exponentially distributed random number: the largest p_i / e_i is a draw from p. */
function exponential(token: number, { seed, position }: SamplingRow): number {
  const words = philox4x32([token >>> 2, position, 0, 0], seed);
  const uniform = ((at(words, token & 3) >>> 8) + 0.5) / 2 ** 24;
  return -Math.log(uniform);
}

function isFiniteRow(logits: Float32Array): boolean {
  return logits.every((x) => x < Infinity) && logits.some((x) => x > -Infinity);
}

/** The lowest index of the largest value. */
function argmax(values: ArrayLike<number>): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (at(values, i) > at(values, best)) best = i;
  return best;
}
