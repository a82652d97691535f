import type { Fork } from "../scheduler/scheduler.js";
import type { Sequence } from "../scheduler/sequence.js";
import type { Emission } from "./detokenize.js";
import type { LiveOutput } from "./live-output.js";
import type { TokenLogprob } from "./types.js";

/** What becomes of branching sequences. */
export interface Branching {
  /** Sequences that end. */
  readonly parents: readonly Sequence[];
  /** Those that go on in their place; `output`: what each one draws, if that is known. */
  readonly forks: readonly (Fork & { readonly output?: LiveOutput })[];
  /** What is known of the outputs now. */
  readonly emissions: readonly Emission[];
}

/** Decides how a request goes on whose prompt leads to several sequences. */
export interface Brancher {
  /** A token was drawn for a branching sequence. Returns undefined while others of the group are to be drawn for. */
  drawn(
    sequence: Sequence,
    token: number,
    logprob: TokenLogprob | undefined,
  ): Branching | undefined;
  /** The forks of the last branching, in their order. */
  began(sequences: readonly Sequence[]): void;
  /** What the outputs are if the request ends now. */
  conclude(): readonly Emission[];
}
