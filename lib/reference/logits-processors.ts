import type { Lists, SamplingControls } from "../engine/step.js";
import { at } from "./matrix.js";

/** A copy of `raw` `[vocab]` after all that a row's controls change, in the order of {@link SamplingControls}. */
export function processLogits(
  raw: Float32Array,
  controls: SamplingControls,
  row: number,
): Float32Array {
  const logits = raw.slice();
  const allowed = new Set(listOf(controls.allowed, row));
  if (allowed.size > 0) {
    for (const id of logits.keys()) if (!allowed.has(id)) logits[id] = -Infinity;
  }
  for (const id of listOf(controls.banned, row)) logits[id] = -Infinity;
  addBiases(logits, controls, row);
  applyPenalties(logits, controls, row);
  applyDry(logits, controls, row);
  return logits;
}

function listOf({ values, offsets }: Lists, row: number): Int32Array {
  return values.subarray(at(offsets, row), at(offsets, row + 1));
}

function addBiases(logits: Float32Array, { biased, biases }: SamplingControls, row: number): void {
  const first = at(biased.offsets, row);
  for (const [i, id] of listOf(biased, row).entries()) {
    logits[id] = at(logits, id) + at(biases, first + i);
  }
}

/** Arithmetic is in single precision, as in the native backends. */
function applyPenalties(logits: Float32Array, controls: SamplingControls, row: number): void {
  const history = listOf(controls.history, row);
  const counts = new Map(Array.from(history, (id) => [id, 0]));
  for (const id of history.subarray(at(controls.numPromptTokens, row))) {
    counts.set(id, counts.get(id)! + 1);
  }
  const repetition = at(controls.repetitionPenalty, row);
  const frequency = at(controls.frequencyPenalty, row);
  for (const [id, count] of counts) {
    let logit = at(logits, id);
    if (repetition !== 1) logit = clampFinite(logit > 0 ? logit / repetition : logit * repetition);
    if (count > 0) {
      logit = Math.fround(logit - Math.fround(frequency * count));
      logit = Math.fround(logit - at(controls.presencePenalty, row));
    }
    logits[id] = logit;
  }
}

function applyDry(logits: Float32Array, controls: SamplingControls, row: number): void {
  const multiplier = at(controls.dryMultiplier, row);
  const range = at(controls.dryRange, row);
  if (multiplier === 0 || range === 0) return;
  const tokens = listOf(controls.history, row).slice(-range);
  const breakers = new Set(listOf(controls.dryBreakers, row));
  const allowed = at(controls.dryAllowedLength, row);
  for (const [id, length] of longestMatches(tokens, breakers)) {
    if (length < allowed || breakers.has(id)) continue;
    const penalty = Math.min(multiplier * power(at(controls.dryBase, row), length - allowed), 1e30);
    logits[id] = clampFinite(at(logits, id) - penalty);
  }
}

/**
 * For each token that followed some end of `tokens` before: the length of the longest such end. An end holds no breaker.
 */
function longestMatches(tokens: Int32Array, breakers: ReadonlySet<number>): Map<number, number> {
  const longest = new Map<number, number>();
  const n = tokens.length;
  for (let follower = 1; follower < n; follower++) {
    let length = 0;
    while (
      length < follower &&
      tokens[follower - 1 - length] === tokens[n - 1 - length] &&
      !breakers.has(at(tokens, n - 1 - length))
    ) {
      length++;
    }
    const token = at(tokens, follower);
    longest.set(token, Math.max(longest.get(token) ?? 0, length));
  }
  return longest;
}

/** base^exponent by squaring: the same bits on every machine. */
function power(base: number, exponent: number): number {
  let result = 1;
  for (let factor = base, left = exponent; left > 0; left = Math.floor(left / 2), factor *= factor)
    if (left % 2 === 1) result *= factor;
  return result;
}

const maxFloat = (2 - 2 ** -23) * 2 ** 127;

/** Finite logits stay finite; -Infinity stays. */
function clampFinite(value: number): number {
  if (value === -Infinity) return value;
  return Math.fround(Math.min(Math.max(value, -maxFloat), maxFloat));
}
