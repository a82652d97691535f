import { groupScores, scorings } from "../graph/ops.js";
import { at, rowOf, type Matrix } from "./matrix.js";

export interface RouteAttributes {
  /** Experts of a row. */
  readonly topK: number;
  /** One of {@link scorings}. */
  readonly scoring: number;
  /** 0 or 1. */
  readonly normalize: number;
  readonly scale: number;
  /** Groups of neighbouring experts; 1: none. */
  readonly numGroups: number;
  readonly topGroups: number;
  /** One of {@link groupScores}. */
  readonly groupScore: number;
}

/**
 * The `topK` experts of each row, best first, lowest index first among equals, and NaN before numbers. Experts are
 * compared by score + bias, where a score is the softmax over the row or the sigmoid of a logit, and are those of the best
 * `topGroups` groups: by the largest of a group, or the sum of its two largest (arXiv:2405.04434, arXiv:2412.19437).
 * Weights are scores, divided by (their sum + 1e-20) if `normalize`, times `scale`.
 */
export function route(
  out: Matrix, // [rows, 2 * topK]: weights, then numbers of experts
  logits: Matrix, // [rows, experts]
  bias: Float32Array | undefined, // [experts]
  attributes: RouteAttributes,
): void {
  const { topK, scoring, normalize, scale } = attributes;
  for (let row = 0; row < out.rows; row++) {
    const scoresOf = scoring === scorings.sigmoid ? sigmoid : softmax;
    const scores = scoresOf(rowOf(logits, row));
    const keys = scores.map((score, e) => score + (bias === undefined ? 0 : at(bias, e)));
    const experts = best(keys, topK, candidates(keys, attributes));
    const weights = experts.map((expert) => at(scores, expert));
    const divisor = normalize === 1 ? weights.reduce((a, b) => a + b, 0) + 1e-20 : 1;
    rowOf(out, row).set([...weights.map((weight) => (weight / divisor) * scale), ...experts]);
  }
}

function sigmoid(logits: Float32Array): number[] {
  return Array.from(logits, (x) => 1 / (1 + Math.exp(-x)));
}

function softmax(logits: Float32Array): number[] {
  const max = logits.reduce((a, b) => (b > a ? b : a), -Infinity);
  const exps = Array.from(logits, (x) => Math.exp(x - max));
  const total = exps.reduce((a, b) => a + b, 0);
  return exps.map((e) => e / total);
}

/** Experts of the best groups. */
function candidates(
  keys: readonly number[],
  { numGroups, topGroups, groupScore }: RouteAttributes,
): number[] {
  const size = keys.length / numGroups;
  const groups = Array.from({ length: numGroups }, (_, g) => keys.slice(g * size, (g + 1) * size));
  const count = groupScore === groupScores.top2Sum ? 2 : 1;
  const scores = groups.map((group) => {
    const largest = best(group, Math.min(count, size), [...group.keys()]);
    return largest.reduce((sum, e) => sum + at(group, e), 0);
  });
  const chosen = new Set(best(scores, topGroups, [...scores.keys()]));
  return [...keys.keys()].filter((expert) => chosen.has(Math.floor(expert / size)));
}

/** The `count` indices with the largest keys among `from`. */
function best(keys: readonly number[], count: number, from: readonly number[]): number[] {
  const rank = (i: number): number => (Number.isNaN(keys[i]) ? Infinity : at(keys, i));
  const sorted = [...from].sort((a, b) => (rank(a) === rank(b) ? a - b : rank(b) - rank(a)));
  return sorted.slice(0, count);
}
