import { BlockTable, type BlockManager } from "../cache/block-manager.js";
import { PagodaError } from "../errors.js";
import { abortError, onAbort } from "./abort.js";
import { deferred, type Deferred } from "./deferred.js";
import type { Executor } from "./executor.js";
import type { StepInput } from "./step.js";

/** float32 values of one chunk at most: 8 MB are copied in about a millisecond. */
const maxChunkValues = 2 ** 21;

interface Job {
  /** int32 [n] */
  readonly ids: Int32Array;
  /** float32 [n, vocabSize], filled chunk by chunk. */
  readonly logits: Float32Array;
  readonly table: BlockTable;
  readonly result: Deferred<Float32Array>;
}

/**
 * Teacher-forced logits, one chunk between two steps of the scheduler. Jobs run one after another. A job takes all its
 * blocks before its first chunk, so it never waits for blocks while it holds some; while it waits for them, the engine
 * admits no further sequences, so it gets them once those that run have ended.
 */
export class LogitsQueue {
  readonly #executor: Executor;
  readonly #blocks: BlockManager;
  readonly #chunkSize: number;
  /** Oldest first; only the first one may hold blocks. */
  readonly #jobs: Job[] = [];
  /** Tokens of the first job that are computed. */
  #numComputed = 0;
  /** Job whose chunk runs now; it may have been rejected meanwhile. */
  #inFlight: Job | undefined;

  constructor(executor: Executor, blocks: BlockManager) {
    const { maxTokens, maxOutputs, vocabSize } = executor.limits;
    const rows = Math.max(1, Math.floor(maxChunkValues / vocabSize));
    this.#executor = executor;
    this.#blocks = blocks;
    this.#chunkSize = Math.min(rows, maxTokens, maxOutputs);
  }

  get isEmpty(): boolean {
    return this.#jobs.length === 0;
  }

  /** Whether the first job could not be given its blocks yet. */
  get needsBlocks(): boolean {
    return this.#jobs[0]?.table.numBlocks === 0;
  }

  /**
   * @param ids - valid token ids that fit the context and the pool
   * @throws ERR_MEMORY, ERR_ABORTED, and what `failAll` is given
   */
  async submit(ids: Int32Array, signal: AbortSignal | undefined): Promise<Float32Array> {
    if (signal?.aborted) throw abortError(signal);
    const job = newJob(ids, this.#executor.limits.vocabSize);
    this.#jobs.push(job);
    const stopListening = onAbort(signal, (error) => this.#reject(job, error));
    try {
      return await job.result.promise;
    } finally {
      stopListening();
    }
  }

  /** Runs one chunk of the first job, once it has its blocks. Returns whether it did. */
  async step(): Promise<boolean> {
    const job = this.#jobs[0];
    if (job === undefined) return false;
    if (this.needsBlocks && !this.#blocks.allocate(job.table, job.ids.length)) return false;
    const start = this.#numComputed;
    const end = Math.min(start + this.#chunkSize, job.ids.length);
    this.#inFlight = job;
    const rows = await this.#executor.logits(chunkInput(job, start, end, this.#blocks));
    this.#inFlight = undefined;
    job.logits.set(rows, start * this.#executor.limits.vocabSize);
    this.#advance(job, end);
    return true;
  }

  /** Rejects all jobs. */
  failAll(error: unknown): void {
    for (const job of [...this.#jobs]) this.#reject(job, error);
  }

  /** Takes the blocks of a chunk back whose step failed. */
  release(): void {
    if (this.#inFlight !== undefined) this.#blocks.free(this.#inFlight.table);
    this.#inFlight = undefined;
  }

  #advance(job: Job, end: number): void {
    if (this.#jobs[0] !== job) return this.#blocks.free(job.table); // rejected while its chunk ran
    this.#numComputed = end;
    if (end < job.ids.length) return;
    this.#remove(job);
    job.result.resolve(job.logits);
  }

  #reject(job: Job, error: unknown): void {
    if (!this.#jobs.includes(job)) return;
    this.#remove(job);
    job.result.reject(error);
  }

  /** A chunk that runs writes to its job's blocks: `step` takes them back. */
  #remove(job: Job): void {
    if (job === this.#jobs[0]) this.#numComputed = 0;
    this.#jobs.splice(this.#jobs.indexOf(job), 1);
    if (job !== this.#inFlight) this.#blocks.free(job.table);
  }
}

/** One request whose every token is an output row. */
function chunkInput(job: Job, start: number, end: number, blocks: BlockManager): StepInput {
  const count = end - start;
  const { table, ids } = job;
  return {
    tokenIds: ids.subarray(start, end),
    positions: int32(count, (i) => start + i),
    queryStartLoc: Int32Array.of(0, count),
    seqLens: Int32Array.of(end),
    blockTable: table.blocks.subarray(0, table.numBlocks),
    maxBlocks: table.numBlocks,
    slotMapping: int32(count, (i) => blocks.slot(table, start + i)),
    blockCopies: new Int32Array(0),
    outputRows: int32(count, (i) => i),
    sampling: {
      temperature: new Float32Array(count),
      topK: new Int32Array(count),
      topP: new Float32Array(count).fill(1),
      minP: new Float32Array(count),
      seed: new Uint32Array(2 * count),
      position: int32(count, (i) => start + i + 1),
    },
  };
}

function int32(length: number, value: (index: number) => number): Int32Array {
  return Int32Array.from({ length }, (_, index) => value(index));
}

/** @throws ERR_MEMORY */
function newJob(ids: Int32Array, vocabSize: number): Job {
  const bytes = ids.length * vocabSize * Float32Array.BYTES_PER_ELEMENT;
  try {
    const logits = new Float32Array(ids.length * vocabSize);
    return { ids, logits, table: new BlockTable(), result: deferred() };
  } catch (cause) {
    const message = `The logits of ${ids.length} tokens take ${bytes} bytes, which cannot be allocated`;
    throw new PagodaError("ERR_MEMORY", message, { details: { bytes }, cause });
  }
}
