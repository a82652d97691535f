import type { Logprob } from "../engine/sampling-options.js";

/** How a beam search chooses; all values are in range. */
export interface BeamParams {
  /** Beams that are kept, at least 1. */
  readonly width: number;
  /** Exponent of the length by which sums of log-probabilities are divided: above 0 favours long outputs. */
  readonly lengthPenalty: number;
  /**
   * When `width` outputs have ended: true ends the search at once, false when none of the beams as it is now would beat them,
   * "never" when none could as long as it may become.
   */
  readonly earlyStopping: boolean | "never";
  /** Tokens that end an output. */
  readonly stopTokenIds: ReadonlySet<number>;
  /** Output tokens before one that ends it, at least. */
  readonly minTokens: number;
  /** Tokens of an output at most, at least 1. */
  readonly maxTokens: number;
}

/** An output as far as it goes: a token behind another beam. */
export interface Beam {
  /** Undefined for the prompt alone, which all beams begin with. */
  readonly parent: Beam | undefined;
  /** The last token, meaningless for the prompt. */
  readonly token: number;
  /** Output tokens. */
  readonly length: number;
  /** Sum of their log-probabilities. */
  readonly sum: number;
  /** The most probable tokens at the last one's place, itself among them. */
  readonly candidates: readonly Logprob[];
}

/** A beam that is over, or as good as. */
export interface Hypothesis {
  readonly beam: Beam;
  /** `sum / length ** lengthPenalty` */
  readonly score: number;
  readonly finishReason: "stop" | "length" | undefined;
}

/**
 * Beam search as Hugging Face's `generate` does it (Lowerre 1976; Graves 2012, arXiv:1211.3711; the length penalty of Wu
 * et al. 2016, arXiv:1609.08144, without its constant). In each step, all continuations of all beams are ranked by their
 * sums. Of the best `width`, those that end become hypotheses, of which the best `width` are kept; the best `width` that
 * do not end are the next beams.
 */
export class BeamSearch {
  readonly #params: BeamParams;
  /** Best first. */
  #beams: readonly Beam[] = [prompt];
  /** Best first, at most `width`. */
  #hypotheses: readonly Hypothesis[] = [];

  constructor(params: BeamParams) {
    this.#params = params;
  }

  /** The beams to go on with, best first; none once the search is over. */
  get beams(): readonly Beam[] {
    return this.#beams;
  }

  /**
   * One step on.
   *
   * @param candidates - of each beam, in their order, the most probable next tokens, most probable first: one more for each
   *   stop token than the width, so that `width` tokens that go on are among them
   */
  advance(candidates: readonly (readonly Logprob[])[]): void {
    const { width, maxTokens } = this.#params;
    const ranked = this.#rank(candidates);
    const isOver = (beam: Beam): boolean => beam.length === maxTokens || this.#isStop(beam.token);
    const ended = ranked.slice(0, width).filter(isOver);
    this.#hypotheses = this.#best([...this.#hypotheses, ...ended.map((beam) => this.#judge(beam))]);
    this.#beams = ranked.filter((beam) => !isOver(beam)).slice(0, width);
    if (!this.#canImprove()) this.#beams = [];
  }

  /** The best hypotheses, best first, `count` at most. A search that is not over counts its beams among them. */
  hypotheses(count: number): readonly Hypothesis[] {
    const running = this.#beams.map((beam) => this.#judge(beam));
    return this.#best([...this.#hypotheses, ...running]).slice(0, count);
  }

  /** All continuations, best first; among equals by beam, then by candidate. */
  #rank(candidates: readonly (readonly Logprob[])[]): Beam[] {
    const { minTokens } = this.#params;
    const all: Beam[] = [];
    for (const [i, parent] of this.#beams.entries()) {
      const length = parent.length + 1;
      for (const { id, logprob } of candidates[i]!) {
        if (logprob === -Infinity) break; // a logits processor ruled it out, and all behind it
        if (parent.length < minTokens && this.#isStop(id)) continue;
        const sum = parent.sum + logprob;
        all.push({ parent, token: id, length, sum, candidates: candidates[i]! });
      }
    }
    return all.sort((a, b) => b.sum - a.sum);
  }

  #isStop(token: number): boolean {
    return this.#params.stopTokenIds.has(token);
  }

  #judge(beam: Beam): Hypothesis {
    const { maxTokens } = this.#params;
    const isStop = beam.length > 0 && this.#isStop(beam.token);
    const reason = isStop ? "stop" : beam.length === maxTokens ? "length" : undefined;
    return { beam, score: this.#score(beam.sum, beam.length), finishReason: reason };
  }

  #score(sum: number, length: number): number {
    return length === 0 ? 0 : sum / length ** this.#params.lengthPenalty;
  }

  #best(hypotheses: Hypothesis[]): readonly Hypothesis[] {
    return hypotheses.sort((a, b) => b.score - a.score).slice(0, this.#params.width);
  }

  /** Whether the beams may still lead to a better hypothesis than the worst that is kept. */
  #canImprove(): boolean {
    const { width, earlyStopping, lengthPenalty, maxTokens } = this.#params;
    const [best] = this.#beams;
    if (best === undefined) return false;
    if (this.#hypotheses.length < width) return true;
    if (earlyStopping === true) return false;
    const isUnbounded = earlyStopping === "never" && lengthPenalty > 0;
    const length = isUnbounded ? maxTokens : best.length;
    return this.#score(best.sum, length) > this.#hypotheses.at(-1)!.score;
  }
}

const prompt: Beam = { parent: undefined, token: -1, length: 0, sum: 0, candidates: [] };

/** The beams from the first output token to `beam`. */
export function pathTo(beam: Beam): Beam[] {
  const path: Beam[] = [];
  for (let at: Beam = beam; at.parent !== undefined; at = at.parent) path.push(at);
  return path.reverse();
}
