import {
  BeamSearch,
  pathTo,
  type Beam,
  type BeamParams,
  type Hypothesis,
} from "../sampling/beam-search.js";
import type { SamplingParams } from "../sampling/sampling-params.js";
import type { StopConditions } from "../sampling/stop.js";
import type { Fork } from "../scheduler/scheduler.js";
import type { Sequence } from "../scheduler/sequence.js";
import type { Brancher, Branching } from "./brancher.js";
import type { Emission } from "./detokenize.js";
import { nonFinite } from "./engine-errors.js";
import type { LiveOutput } from "./live-output.js";
import type { Logprob, TokenLogprob } from "./types.js";

/** What the sequences of a beam search have in common. */
export interface BeamRunOptions extends BeamParams {
  readonly stop: StopConditions;
  readonly sampling: SamplingParams;
  /** Most probable tokens that the caller wants at each place; undefined: no log-probabilities. */
  readonly numLogprobs: number | undefined;
  /** Ids of new sequences. */
  readonly nextId: () => number;
}

/** The beam search of one request: each beam is a sequence, and each step replaces all of them by forks. */
export class BeamRun implements Brancher {
  readonly #outputs: LiveOutput[];
  readonly #options: BeamRunOptions;
  readonly #search: BeamSearch;
  /** One a beam, in their order. */
  #sequences: readonly Sequence[] = [];
  /** The most probable next tokens of those that were drawn for. */
  #candidates: Map<Sequence, readonly Logprob[]> = new Map();
  #isConcluded = false;

  /** @param outputs - cut to the hypotheses that there are at the end */
  constructor(outputs: LiveOutput[], options: BeamRunOptions) {
    this.#outputs = outputs;
    this.#options = options;
    this.#search = new BeamSearch(options);
  }

  began(sequences: readonly Sequence[]): void {
    this.#sequences = sequences;
  }

  drawn(
    sequence: Sequence,
    _token: number,
    logprob: TokenLogprob | undefined,
  ): Branching | undefined {
    this.#candidates.set(sequence, logprob!.top);
    const parents = this.#sequences;
    if (this.#candidates.size < parents.length) return undefined;
    const parentOf = new Map(this.#search.beams.map((beam, i) => [beam, parents[i]!]));
    this.#search.advance(parents.map((parent) => this.#candidates.get(parent)!));
    this.#candidates = new Map();
    const { beams } = this.#search;
    const forks = beams.map((beam) => this.#fork(parentOf.get(beam.parent!)!, beam));
    return { parents, forks, emissions: beams.length === 0 ? this.conclude() : [] };
  }

  /** @throws ERR_NON_FINITE when no token was possible */
  conclude(): readonly Emission[] {
    if (this.#isConcluded) return [];
    this.#isConcluded = true;
    const hypotheses = this.#search.hypotheses(this.#outputs.length);
    if (hypotheses.length === 0) throw nonFinite(0);
    this.#outputs.length = hypotheses.length;
    return hypotheses.map((hypothesis, i) => this.#emission(this.#outputs[i]!, hypothesis));
  }

  #emission(output: LiveOutput, { beam, score, finishReason }: Hypothesis): Emission {
    output.score = score;
    const path = pathTo(beam);
    const { numLogprobs } = this.#options;
    const logprobs =
      numLogprobs === undefined ? undefined : path.map((step) => beamLogprob(step, numLogprobs));
    const tokenIds = path.map(({ token }) => token);
    const told = { output, tokenIds, ...(logprobs && { logprobs }) };
    return { ...told, finishReason: finishReason ?? "deadline" };
  }

  #fork(parent: Sequence, { token }: Beam): Fork {
    const { stop, sampling, nextId } = this.#options;
    const options = { id: nextId(), stop, sampling, tokenIds: [token], isBranching: true };
    return { parent, options };
  }
}

function beamLogprob({ token, candidates }: Beam, count: number): TokenLogprob {
  const own = candidates.find(({ id }) => id === token)!;
  const rank = 1 + candidates.filter(({ logprob }) => logprob > own.logprob).length;
  return { ...own, rank, top: candidates.slice(0, count) };
}
