/**
 * Inputs of one engine step: R requests, T scheduled tokens, S rows that need a token drawn, G KV groups of the plan. Names
 * follow vLLM V1.
 */
export interface StepInput {
  /** int32 [T], ragged, request after request. */
  readonly tokenIds: Int32Array;
  /** int32 [T], absolute position of each token in its sequence. */
  readonly positions: Int32Array;
  /** int32 [R + 1], where each request's tokens start. */
  readonly queryStartLoc: Int32Array;
  /** int32 [R], context length after this step. */
  readonly seqLens: Int32Array;
  /** int32 [G, R, maxBlocks], physical block of each logical block; entries that are unused or behind a window are 0. */
  readonly blockTable: Int32Array;
  /** Row length of `blockTable` in this step. */
  readonly maxBlocks: number;
  /** int32 [G, T], `block * blockSize + offset` where each token's K and V are written. */
  readonly slotMapping: Int32Array;
  /** int32 [C, 2], (from, to) blocks, of any group, copied in all slots before anything else (copy-on-write). */
  readonly blockCopies: Int32Array;
  /** int32 [S], rows among the T tokens that need logits. */
  readonly outputRows: Int32Array;
  readonly sampling: SamplingInput;
}

/** Sampling parameters of the S output rows. */
export interface SamplingInput {
  /** float32 [S]; 0 is greedy. */
  readonly temperature: Float32Array;
  /** int32 [S]; 0 keeps all. */
  readonly topK: Int32Array;
  /** float32 [S], in (0, 1]. */
  readonly topP: Float32Array;
  /** float32 [S], in [0, 1]. */
  readonly minP: Float32Array;
  /** uint32 [S, 2], low word first. */
  readonly seed: Uint32Array;
  /** int32 [S], absolute position of the token that is drawn: the random numbers' counter. */
  readonly position: Int32Array;
  /** int32 [S], where not negative the row's token, which is then not drawn; absent: all are drawn. */
  readonly targets?: Int32Array;
  /** int32 [S], most probable tokens wanted beside the row's own, -1: no log-probabilities; absent: none of any row. */
  readonly numLogprobs?: Int32Array;
  /** Absent where no row needs any of it. */
  readonly controls?: SamplingControls;
}

/** One list a row: row s has `values[offsets[s]]` to `values[offsets[s + 1] - 1]`. */
export interface Lists {
  readonly values: Int32Array;
  /** int32 [S + 1] */
  readonly offsets: Int32Array;
}

/**
 * What changes the logits of rows before a token is drawn, in the order of these fields, and the filters beside topP. Each
 * value and its neutral one are described in native/backend.h, PagodaSampleControls.
 */
export interface SamplingControls {
  /** Ids in increasing order; an empty list allows all. */
  readonly allowed: Lists;
  readonly banned: Lists;
  /** Ids in increasing order. */
  readonly biased: Lists;
  /** float32, beside `biased.values`. */
  readonly biases: Float32Array;
  /** The tokens that penalties and DRY look at, prompt first; empty where a row uses neither. */
  readonly history: Lists;
  /** int32 [S], leading tokens of the history that are no output. */
  readonly numPromptTokens: Int32Array;
  /** float32 [S], above 0; 1 is neutral. */
  readonly repetitionPenalty: Float32Array;
  /** float32 [S]; 0 is neutral. */
  readonly frequencyPenalty: Float32Array;
  /** float32 [S]; 0 is neutral. */
  readonly presencePenalty: Float32Array;
  /** float32 [S]; 0 is neutral. */
  readonly dryMultiplier: Float32Array;
  /** float32 [S], at least 1. */
  readonly dryBase: Float32Array;
  /** int32 [S], at least 1. */
  readonly dryAllowedLength: Int32Array;
  /** int32 [S], last tokens of the history that DRY looks at. */
  readonly dryRange: Int32Array;
  /** Ids in increasing order. */
  readonly dryBreakers: Lists;
  /** float32 [S], in (0, 1]; 1 is neutral. */
  readonly typicalP: Float32Array;
  /** float32 [S], in [0, 1]; 0 is neutral. */
  readonly xtcProbability: Float32Array;
  /** float32 [S], in [0, 1]. */
  readonly xtcThreshold: Float32Array;
}

/** Most log-probabilities a row beside the one of its token: beam searches want more than requests may. */
export const maxStepLogprobs = 128;

/** What one step yields. */
export interface StepOutput {
  /** int32 [S], the drawn tokens. */
  readonly tokens: Int32Array;
  /** int32 [S], 0 where the row's logits were not finite (its token is then meaningless). */
  readonly finite: Int32Array;
  /** Present where the step's `numLogprobs` is. */
  readonly logprobs?: StepLogprobs;
}

/**
 * Log-probabilities of the logits as the model computed them. Rows that want none, or whose logits were not finite, hold
 * arbitrary values.
 */
export interface StepLogprobs {
  /** float32 [S], of the row's token. */
  readonly logprob: Float32Array;
  /** int32 [S], 1 + how many tokens are more probable than the row's. */
  readonly rank: Int32Array;
  /** K, the row length of the arrays below: the largest of `numLogprobs`. */
  readonly width: number;
  /** int32 [S, K], most probable first, lowest id first among equals; -1 behind the row's number of them. */
  readonly topIds: Int32Array;
  /** float32 [S, K], beside `topIds`. */
  readonly topLogprobs: Float32Array;
}
