/** Inputs of one engine step: R requests, T scheduled tokens, S rows that need a token drawn. Names follow vLLM V1. */
export interface StepInput {
  /** int32 [T], ragged, request after request. */
  readonly tokenIds: Int32Array;
  /** int32 [T], absolute position of each token in its sequence. */
  readonly positions: Int32Array;
  /** int32 [R + 1], where each request's tokens start. */
  readonly queryStartLoc: Int32Array;
  /** int32 [R], context length after this step. */
  readonly seqLens: Int32Array;
  /** int32 [R, maxBlocks], physical block of each logical block; unused entries are 0. */
  readonly blockTable: Int32Array;
  /** Row length of `blockTable` in this step. */
  readonly maxBlocks: number;
  /** int32 [T], `block * blockSize + offset` where each token's K and V are written. */
  readonly slotMapping: Int32Array;
  /** int32 [C, 2], (from, to) blocks copied before anything else (copy-on-write). */
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
}

/** What one step yields. */
export interface StepOutput {
  /** int32 [S], the drawn tokens. */
  readonly tokens: Int32Array;
  /** int32 [S], 0 where the row's logits were not finite (its token is then meaningless). */
  readonly finite: Int32Array;
}
