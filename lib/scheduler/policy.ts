/**
 * The place of a sequence in the order of service, a finite number: smaller ranks run first and are preempted last, equal
 * ranks go by id. It is fixed when the sequence arrives. A policy starves nobody if ranks grow with `arrival` beyond any
 * bound: then only so many later sequences can ever overtake one.
 *
 * @param arrival - how many sequences arrived before
 * @param priority - smaller is more urgent
 */
export type Policy = (arrival: number, priority: number) => number;

/** First come, first served. */
export const fcfs: Policy = (arrival) => arrival;

/** Arrivals that one level of priority is worth. */
const arrivalsPerLevel = 1024;

/**
 * More urgent sequences first, those of equal priority in order of arrival. Each level is worth 1024 arrivals: a sequence
 * is overtaken by no more than `1024 * d` that arrive after it with a priority that is smaller by `d`.
 */
export const byPriority: Policy = (arrival, priority) => arrival + arrivalsPerLevel * priority;

/** Bounds of a priority, so that ranks are exact integers. */
export const priorityRange: { readonly min: number; readonly max: number } = {
  min: -(2 ** 20),
  max: 2 ** 20,
};
