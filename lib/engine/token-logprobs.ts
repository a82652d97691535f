import type { ScheduledStep } from "../scheduler/scheduler.js";
import type { Sequence } from "../scheduler/sequence.js";
import type { StepLogprobs, StepOutput } from "./step.js";
import type { TokenLogprob } from "./types.js";

/** What a row's log-probabilities say of its token `id`, with the `count` most probable tokens. */
export function tokenLogprob(
  { logprob, rank, width, topIds, topLogprobs }: StepLogprobs,
  row: number,
  id: number,
  count: number,
): TokenLogprob {
  const top: { id: number; logprob: number }[] = [];
  for (let i = row * width; i < row * width + count; i++) {
    const topId = topIds[i]!;
    if (topId >= 0) top.push({ id: topId, logprob: topLogprobs[i]! }); // -1: a smaller vocabulary
  }
  return { id, logprob: logprob[row]!, rank: rank[row]!, top };
}

/** The log-probabilities of a step's tokens, for the sequences that want them. */
export function drawnLogprobs(
  { sequences }: ScheduledStep,
  { tokens, logprobs }: StepOutput,
): ReadonlyMap<Sequence, TokenLogprob> {
  const bySequence = new Map<Sequence, TokenLogprob>();
  if (logprobs === undefined) return bySequence;
  const rows = sequences.filter(({ isSampled }) => isSampled);
  for (const [row, { sequence }] of rows.entries()) {
    const { numLogprobs } = sequence.sampling;
    if (numLogprobs === undefined) continue;
    bySequence.set(sequence, tokenLogprob(logprobs, row, tokens[row]!, numLogprobs));
  }
  return bySequence;
}
