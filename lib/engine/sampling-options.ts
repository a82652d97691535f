/**
 * How tokens are drawn. Unset fields take the model's generation_config.json (temperature, topK, topP, minP,
 * repetitionPenalty), then the defaults named here. docs/sampling.md says in which order they are applied.
 */
export interface SamplingOptions {
  /** 0 is greedy; at most 100. @default 1 */
  readonly temperature?: number;
  /** Keep the k most probable tokens, at most 2^31 - 1; 0 keeps all. @default 0 */
  readonly topK?: number;
  /** Keep the smallest set of most probable tokens whose sum reaches topP, in (0, 1]. @default 1 */
  readonly topP?: number;
  /** Drop tokens less probable than minP times the most probable one, in [0, 1]. @default 0 */
  readonly minP?: number;
  /**
   * Keep the smallest set of tokens, those first whose information is nearest to the entropy, whose sum reaches typicalP, in
   * (0, 1] (Meister et al. 2022, arXiv:2202.00666).
   * @default 1
   */
  readonly typicalP?: number;
  /** Integer in [0, 2^53 - 1]. The same request with the same seed gives the same tokens in any batch. @default random */
  readonly seed?: number;
  /** Taken from the logit of each token that is in the output, in [-2, 2]. @default 0 */
  readonly presencePenalty?: number;
  /** Taken from the logit of each token as often as it is in the output, in [-2, 2]. @default 0 */
  readonly frequencyPenalty?: number;
  /**
   * Divides the positive logit of each token that is in prompt or output and multiplies a negative one; above 0, at most 1e6
   * (Keskar et al. 2019, arXiv:1909.05858).
   * @default 1
   */
  readonly repetitionPenalty?: number;
  /** Added to the logits of these tokens: id to bias, 1024 at most. Biases beyond -100 and 100 are taken as these. */
  readonly logitBias?: ReadonlyMap<number, number> | Readonly<Record<number, number>>;
  /** Only these tokens are drawn; 1 to 1024. @default all */
  readonly allowedTokenIds?: readonly number[];
  /**
   * Texts whose tokens are not drawn, as they are at the beginning of a text or after a space; other ways to spell them out
   * of tokens remain. At most 256, of 1 to 256 characters each. Needs a tokenizer.
   */
  readonly badWords?: readonly string[];
  /** No token or text ends the output before it has this many tokens; at most maxTokens. @default 0 */
  readonly minTokens?: number;
  /** Penalty for going on with a text as it went on before. @default none */
  readonly dry?: DryOptions;
  /** Exclude top choices: sometimes drop the most probable tokens. @default never */
  readonly xtc?: XtcOptions;
  /**
   * Log-probabilities of the drawn tokens, and of this many most probable ones at each place, 0 to 20. They are those of the
   * model, before anything above changes them.
   * @default none
   */
  readonly logprobs?: number;
  /** Changes logits in JavaScript, before everything else. Slow: see {@link LogitsProcessor}. */
  readonly logitsProcessor?: LogitsProcessor;
}

/**
 * The DRY ("don't repeat yourself") penalty of p-e-w, text-generation-webui pull request 5677. If the last n tokens, n at
 * least allowedLength, were followed by some token before, that token's logit is lowered by
 * `multiplier * base ** (n - allowedLength)`.
 */
export interface DryOptions {
  /** 0 to 1e6; 0 switches it off, 0.8 is usual. */
  readonly multiplier: number;
  /** 1 to 1e6. @default 1.75 */
  readonly base?: number;
  /** At least 1. @default 2 */
  readonly allowedLength?: number;
  /** Last tokens of prompt and output that are looked at. @default all */
  readonly range?: number;
  /**
   * Repeated tokens are counted from behind the last of these, as token ids or as texts, of which the last token counts. At
   * most 64. Texts need a tokenizer.
   * @default ["\n", ":", "\"", "*"], without a tokenizer none
   */
  readonly sequenceBreakers?: readonly (string | number)[];
}

/** XTC of p-e-w, text-generation-webui pull request 6335. */
export interface XtcOptions {
  /** How often it happens, in [0, 1]. */
  readonly probability: number;
  /** Of the tokens at least this probable only the least probable stays, in [0, 1]. @default 0.1 */
  readonly threshold?: number;
}

/**
 * Changes the logits of one step in place: a float32 array of the size of the vocabulary, -Infinity forbids a token.
 * `tokenIds` are prompt and output so far. Both arrays are copies that may be kept.
 *
 * It runs on the JavaScript thread, once a token. Steps with such a request copy the logits of all their requests to
 * JavaScript and back, and wait for it. What it throws, or an array that it leaves with NaN, ends the request.
 */
export type LogitsProcessor = (tokenIds: Int32Array, logits: Float32Array) => void;

/** A token, and how probable the model found it. */
export interface Logprob {
  readonly id: number;
  /** Natural logarithm of the probability; -Infinity where it is 0. */
  readonly logprob: number;
}

/** A token of a text with the alternatives at its place. */
export interface TokenLogprob extends Logprob {
  /** 1 + how many tokens are more probable. */
  readonly rank: number;
  /** The most probable tokens, as many as were asked for, the most probable one first. */
  readonly top: readonly Logprob[];
}
