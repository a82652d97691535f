import type { KvGroup } from "../graph/plan.js";
import type { SamplingInput, StepInput, StepOutput } from "./step.js";

/** Runs a compiled model, one step at a time: natively ({@link createNativeExecutor}) or by the reference backend. */
export interface Executor {
  readonly limits: ExecutorLimits;
  /**
   * Runs one step; at most one may be under way. The arrays of `input` may be reused once the promise settles.
   * @throws PagodaError ERR_ARGUMENT (an input breaks a limit), ERR_BACKEND_FAILED, ERR_MEMORY, ERR_CLOSED
   */
  execute(input: StepInput): Promise<StepOutput>;
  /** Runs one step and returns the logits of its output rows, float32 [S, vocabSize], instead of sampling. */
  logits(input: StepInput): Promise<Float32Array>;
  /** Samples rows of logits, float32 [S, vocabSize], as `execute` does after the model; the arrays are copied at once. */
  sampleRows(logits: Float32Array, sampling: SamplingInput): Promise<StepOutput>;
  /** Waits for the step under way, then frees everything. Idempotent. */
  close(): Promise<void>;
}

export interface ExecutorLimits {
  /** Tokens in one step. */
  readonly maxTokens: number;
  /** Requests in one step. */
  readonly maxRequests: number;
  /** Output rows in one step. */
  readonly maxOutputs: number;
  /** Physical blocks of the KV cache, block 0 (the null block) included. */
  readonly numBlocks: number;
  /** Tokens a block. */
  readonly blockSize: number;
  readonly vocabSize: number;
  /** Of the plan; each has a block table of its own in every step. */
  readonly kvGroups: readonly KvGroup[];
}
