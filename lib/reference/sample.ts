import type { SamplingInput, StepLogprobs, StepOutput } from "../engine/step.js";
import { processLogits } from "./logits-processors.js";
import { computeLogprobs } from "./logprobs.js";
import { at, rowOf, type Matrix } from "./matrix.js";
import { philox4x32 } from "./philox.js";

/** Parameters of one row, but for what changes its logits. */
export interface SamplingRow {
  /** 0 is greedy. */
  readonly temperature: number;
  /** 0 keeps all. */
  readonly topK: number;
  readonly topP: number;
  readonly minP: number;
  /** @default 1 */
  readonly typicalP?: number;
  /** @default 0 */
  readonly xtcProbability?: number;
  /** @default 1 */
  readonly xtcThreshold?: number;
  /** Low word, high word. */
  readonly seed: readonly [number, number];
  /** Absolute position of the token that is drawn. */
  readonly position: number;
}

/** Draws one token for each row of `logits` `[outputs, vocab]`; finite[s] is 0, and the token too, where a row is not finite. */
export function sample(logits: Matrix, sampling: SamplingInput): StepOutput {
  const tokens = new Int32Array(logits.rows);
  const finite = new Int32Array(logits.rows);
  for (let row = 0; row < logits.rows; row++) {
    const token = chooseToken(rowOf(logits, row), sampling, row);
    tokens[row] = token ?? 0;
    finite[row] = token === undefined ? 0 : 1;
  }
  const { numLogprobs } = sampling;
  if (numLogprobs === undefined) return { tokens, finite };
  return { tokens, finite, logprobs: rowLogprobs(logits, tokens, finite, numLogprobs) };
}

/** The row's target, or a drawn token. */
function chooseToken(raw: Float32Array, sampling: SamplingInput, row: number): number | undefined {
  if (!isFiniteRow(raw)) return undefined;
  const target = sampling.targets?.[row] ?? -1;
  if (target >= 0) return target;
  const { controls } = sampling;
  const options = rowOptions(sampling, row);
  return drawToken(controls === undefined ? raw : processLogits(raw, controls, row), options);
}

function rowOptions(sampling: SamplingInput, row: number): SamplingRow {
  const { controls } = sampling;
  return {
    temperature: at(sampling.temperature, row),
    topK: at(sampling.topK, row),
    topP: at(sampling.topP, row),
    minP: at(sampling.minP, row),
    seed: [at(sampling.seed, 2 * row), at(sampling.seed, 2 * row + 1)],
    position: at(sampling.position, row),
    ...(controls !== undefined && {
      typicalP: at(controls.typicalP, row),
      xtcProbability: at(controls.xtcProbability, row),
      xtcThreshold: at(controls.xtcThreshold, row),
    }),
  };
}

function rowLogprobs(
  logits: Matrix,
  tokens: Int32Array,
  finite: Int32Array,
  numLogprobs: Int32Array,
): StepLogprobs {
  const width = numLogprobs.reduce((a, b) => Math.max(a, b), 0);
  const result = {
    logprob: new Float32Array(logits.rows),
    rank: new Int32Array(logits.rows),
    width,
    topIds: new Int32Array(logits.rows * width).fill(-1),
    topLogprobs: new Float32Array(logits.rows * width).fill(-Infinity),
  };
  for (const [row, count] of numLogprobs.entries()) {
    if (count < 0 || finite[row] === 0) continue;
    const { logprob, rank, top } = computeLogprobs(rowOf(logits, row), at(tokens, row), count);
    result.logprob[row] = logprob;
    result.rank[row] = rank;
    for (const [i, entry] of top.entries()) {
      result.topIds[row * width + i] = entry.id;
      result.topLogprobs[row * width + i] = entry.logprob;
    }
  }
  return result;
}

/** The token drawn from `logits` `[vocab]`; undefined if they hold a NaN, +Infinity, or nothing but -Infinity. */
export function drawToken(logits: Float32Array, options: SamplingRow): number | undefined {
  if (!isFiniteRow(logits)) return undefined;
  if (options.temperature === 0) return argmax(logits);
  const probabilities = keptProbabilities(logits, options);
  const { xtcProbability = 0, xtcThreshold = 1 } = options;
  if (xtcUniform(options) < xtcProbability) dropTopChoices(probabilities, xtcThreshold);
  const race = probabilities.map((p, token) => p / exponential(token, options));
  return argmax(race);
}

/**
 * Probability of each token, 0 where it is dropped; the kept ones are not normalised. In this order: temperature, minP
 * (drop p < minP * max p), topK (keep all >= the k-th value), typicalP and topP (keep the fewest tokens whose share of what
 * is left reaches it: the ones nearest to the entropy, or the most probable ones, lowest id first among equals).
 */
export function keptProbabilities(
  logits: Float32Array,
  options: Omit<SamplingRow, "seed" | "position">,
): Float64Array {
  const { temperature, minP, topK, topP, typicalP = 1 } = options;
  const max = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const scaled = Float64Array.from(logits, (logit) => (logit - max) / temperature);
  const p = scaled.map(Math.exp); // max p is 1
  for (const [token, value] of p.entries()) if (value < minP) p[token] = 0;
  if (topK > 0 && topK < p.length) {
    const threshold = at(logits.slice().sort().reverse(), topK - 1);
    for (const [token, logit] of logits.entries()) if (logit < threshold) p[token] = 0;
  }
  if (typicalP < 1) keepTypicalP(p, scaled, typicalP);
  if (topP < 1) keepShare(p, topP, (token) => -at(p, token));
  return p;
}

/** |ln p + entropy| is |mean - scaled|: the logarithm of the sum of weights cancels out. `scaled` holds ln p up to a constant. */
function keepTypicalP(p: Float64Array, scaled: Float64Array, typicalP: number): void {
  let mean = 0;
  for (const [token, value] of p.entries()) if (value > 0) mean += value * at(scaled, token);
  mean /= sumOf(p);
  keepShare(p, typicalP, (token) => Math.abs(mean - at(scaled, token)));
}

/** Keeps the fewest tokens whose share reaches `share`, those of the smallest key first, lowest id first among equals. */
function keepShare(p: Float64Array, share: number, key: (token: number) => number): void {
  const kept = [...p.keys()].filter((token) => at(p, token) > 0);
  const keys = new Map(kept.map((token) => [token, key(token)]));
  kept.sort((a, b) => keys.get(a)! - keys.get(b)! || a - b);
  const target = sumOf(p) * share;
  let sum = 0;
  for (const token of kept) {
    if (sum >= target) p[token] = 0;
    else sum += at(p, token);
  }
}

/** XTC: of the tokens whose share is at least `threshold`, only the least probable stays, the highest id among equals. */
export function dropTopChoices(p: Float64Array, threshold: number): void {
  const least = sumOf(p) * threshold;
  const top = [...p.keys()].filter((token) => at(p, token) > 0 && at(p, token) >= least);
  top.sort((a, b) => at(p, b) - at(p, a) || a - b);
  for (const token of top.slice(0, -1)) p[token] = 0;
}

function sumOf(p: Float64Array): number {
  return p.reduce((sum, value) => sum + value, 0);
}

/** The token's exponentially distributed random number: the largest p_i / e_i is a draw from p. */
function exponential(token: number, { seed, position }: SamplingRow): number {
  const words = philox4x32([token >>> 2, position, 0, 0], seed);
  return -Math.log(toUniform(at(words, token & 3)));
}

/** From a stream of its own, so that it does not depend on any token's number. */
function xtcUniform({ seed, position }: SamplingRow): number {
  return toUniform(philox4x32([0, position, 1, 0], seed)[0]);
}

function toUniform(word: number): number {
  return ((word >>> 8) + 0.5) / 2 ** 24;
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
