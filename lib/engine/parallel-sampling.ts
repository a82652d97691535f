import { checkStop, type StopConditions } from "../sampling/stop.js";
import type { SamplingParams } from "../sampling/sampling-params.js";
import type { Sequence } from "../scheduler/sequence.js";
import type { Brancher, Branching } from "./brancher.js";
import type { Emission } from "./detokenize.js";
import type { LiveOutput } from "./live-output.js";
import type { TokenLogprob } from "./types.js";

/**
 * Several outputs of one prompt: a first sequence computes it and draws the first output's first token; the others fork off
 * behind the prompt, and compute only its last token again. Output i is drawn as a request with the seed `seed + i` is.
 */
export class ParallelSampling implements Brancher {
  readonly #outputs: readonly LiveOutput[];
  readonly #stop: StopConditions;
  readonly #sampling: SamplingParams;
  readonly #nextId: () => number;

  /** @param nextId - ids of new sequences */
  constructor(
    outputs: readonly LiveOutput[],
    how: { readonly stop: StopConditions; readonly sampling: SamplingParams },
    nextId: () => number,
  ) {
    this.#outputs = outputs;
    this.#stop = how.stop;
    this.#sampling = how.sampling;
    this.#nextId = nextId;
  }

  drawn(parent: Sequence, token: number, logprob: TokenLogprob | undefined): Branching {
    const finishReason = checkStop(token, 1, this.#stop);
    const forks = this.#outputs.map((output, index) => ({
      parent,
      output,
      options: {
        id: this.#nextId(),
        stop: this.#stop,
        sampling: { ...this.#sampling, seed: addToSeed(this.#sampling.seed, index) },
        tokenIds: index === 0 ? [token] : [],
      },
    }));
    const first: Emission = {
      output: this.#outputs[0]!,
      tokenIds: [token],
      ...(finishReason !== undefined && { finishReason }),
      ...(logprob !== undefined && { logprobs: [logprob] }),
    };
    return {
      parents: [parent],
      forks: finishReason === undefined ? forks : forks.slice(1),
      emissions: [first],
    };
  }

  began(): void {}

  /** The outputs know themselves what they have. */
  conclude(): readonly Emission[] {
    return [];
  }
}

/** `seed + index` in 64 bits, low word first. */
function addToSeed([low, high]: readonly [number, number], index: number): [number, number] {
  const sum = low + index;
  return [sum >>> 0, (high + Math.floor(sum / 2 ** 32)) >>> 0];
}
