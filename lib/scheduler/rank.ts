import { assert } from "../errors.js";
import type { Sequence } from "./sequence.js";

/** Puts a sequence at its place in a list that is in order of service. */
export function insertByRank(list: Sequence[], sequence: Sequence): void {
  let low = 0;
  let high = list.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (isBefore(sequence, list[middle]!)) high = middle;
    else low = middle + 1;
  }
  list.splice(low, 0, sequence);
}

/** Whether `one` is served before `other`. */
export function isBefore(one: Sequence, other: Sequence): boolean {
  return one.rank < other.rank || (one.rank === other.rank && one.id < other.id);
}

/** Takes a sequence out of a list that it is in. */
export function remove(list: Sequence[], sequence: Sequence): void {
  const index = list.indexOf(sequence);
  assert(index >= 0, `sequence ${sequence.id} is in the list of its status`);
  list.splice(index, 1);
}
