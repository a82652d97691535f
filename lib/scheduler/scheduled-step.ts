import type { Sequence } from "./sequence.js";

/** The next tokens of one sequence: from `numComputedTokens` on. */
export interface ScheduledSequence {
  readonly sequence: Sequence;
  readonly numTokens: number;
  /** Whether they reach the sequence's end, so that a token is drawn. */
  readonly isSampled: boolean;
}

/** What one step runs. */
export interface ScheduledStep {
  /** At least one; those that ran before come first, each group in the order of service. */
  readonly sequences: readonly ScheduledSequence[];
  /** T, their tokens together. */
  readonly numTokens: number;
  /** S, how many of them are sampled. */
  readonly numOutputs: number;
  /** int32 [C, 2], (from, to) blocks copied before anything else (copy-on-write). */
  readonly blockCopies: Int32Array;
}

/** A token that a step drew for a sequence, and appended unless the sequence is branching. */
export interface DrawnToken {
  readonly sequence: Sequence;
  readonly token: number;
  /** Set where it is the last one; `error`: the logits were not finite, and the token does not count. */
  readonly finishReason?: "stop" | "length" | "error";
}

/** Tokens of a sequence in a step. */
export function scheduledSequence(sequence: Sequence, numTokens: number): ScheduledSequence {
  const isSampled = sequence.numComputedTokens + numTokens === sequence.numTokens;
  return { sequence, numTokens, isSampled };
}
