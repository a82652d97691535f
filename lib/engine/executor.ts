import type { KvGroup } from "../graph/plan.js";
import type { SamplingInput, StepInput, StepOutput } from "./step.js";

/** Runs a compiled model, one step at a time: natively ({@link createNativeExecutor}) or by the reference backend. */
export interface Executor {
  readonly limits: ExecutorLimits;
  /** Bytes of one physical block over all KV layers, as {@link readBlocks} gives them. */
  readonly kvBlockBytes: number;
  /** Equal exactly where two executors of one model may exchange the bytes of blocks; see `kvLayout`. */
  readonly kvLayout: string;
  /**
   * Runs one step; at most one may be under way. The arrays of `input` may be reused once the promise settles.
   * @throws PagodaError ERR_ARGUMENT (an input breaks a limit), ERR_BACKEND_FAILED, ERR_MEMORY, ERR_CLOSED
   */
  execute(input: StepInput): Promise<StepOutput>;
  /** Runs one step and returns the logits of its output rows, float32 [S, vocabSize], instead of sampling. */
  logits(input: StepInput): Promise<Float32Array>;
  /** Samples rows of logits, float32 [S, vocabSize], as `execute` does after the model; the arrays are copied at once. */
  sampleRows(logits: Float32Array, sampling: SamplingInput): Promise<StepOutput>;
  /**
   * Copies KV blocks to the host: `kvBlockBytes` bytes each, block after block, in each its layers, in the backend's own
   * layout. It takes its turn among steps. Slots that no token was written to hold whatever was there before.
   *
   * @param blocks - physical blocks, read at once; at most `blocksPerTransfer(kvBlockBytes)`, so that no step waits long
   * @throws PagodaError ERR_ARGUMENT (an id or the count), ERR_BACKEND_FAILED, ERR_MEMORY, ERR_CLOSED
   */
  readBlocks(blocks: Int32Array): Promise<Uint8Array>;
  /**
   * The reverse, for bytes of an executor with the same `kvLayout`. Steps that are begun later see what was written.
   *
   * @param blocks - as for `readBlocks`, but for the null block, which is never written
   * @param bytes - `blocks.length * kvBlockBytes`, copied at once
   * @throws PagodaError as `readBlocks`; ERR_ARGUMENT leaves all blocks as they were
   */
  writeBlocks(blocks: Int32Array, bytes: Uint8Array): Promise<void>;
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
