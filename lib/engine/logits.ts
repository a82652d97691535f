import { BlockTable, type BlockManager } from "../cache/block-manager.js";
import { assert, PagodaError } from "../errors.js";
import { abortError, onAbort } from "./abort.js";
import { deferred } from "./deferred.js";
import type { Executor } from "./executor.js";
import type { StepInput, StepOutput } from "./step.js";
import { tokenLogprob } from "./token-logprobs.js";
import type { TokenLogprob } from "./types.js";

/** float32 values of one chunk at most: 8 MB are copied in about a millisecond. */
const maxChunkValues = 2 ** 21;

/** Token ids whose logits are wanted, and what happens with them. */
interface Job {
  /** int32 [n] */
  readonly ids: Int32Array;
  readonly table: BlockTable;
  /** Tokens run in one step at most. */
  readonly chunkSize: number;
  /** Runs the tokens from `start` on. */
  runChunk(input: StepInput, start: number): Promise<void>;
  /** All chunks are done. */
  finish(): void;
  readonly reject: (error: unknown) => void;
}

/**
 * Teacher-forced logits and log-probabilities, one chunk between two steps of the scheduler. Jobs run one after another. A
 * job is promised all its blocks before its first chunk, so it never waits for blocks while it holds some; while it waits
 * for the promise, the engine admits no further sequences, so it gets it once those that run have ended.
 */
export class LogitsQueue {
  readonly #executor: Executor;
  readonly #blocks: BlockManager;
  /** Oldest first; only the first one may hold blocks. */
  readonly #jobs: Job[] = [];
  /** Tokens of the first job that are computed. */
  #numComputed = 0;
  /** Job whose chunk runs now; it may have been rejected meanwhile. */
  #inFlight: Job | undefined;

  constructor(executor: Executor, blocks: BlockManager) {
    this.#executor = executor;
    this.#blocks = blocks;
  }

  get isEmpty(): boolean {
    return this.#jobs.length === 0;
  }

  /** Whether the first job could not be given its blocks yet. */
  get needsBlocks(): boolean {
    return this.#jobs[0]?.table.numPromisedBlocks === 0;
  }

  /**
   * Logits of every position, float32 [n, vocabSize].
   *
   * @param ids - valid token ids that fit the context and the pool
   * @throws ERR_MEMORY, ERR_ABORTED, and what `failAll` is given
   */
  async submit(ids: Int32Array, signal: AbortSignal | undefined): Promise<Float32Array> {
    const { vocabSize } = this.#executor.limits;
    const rows = Math.max(1, Math.floor(maxChunkValues / vocabSize));
    const result = deferred<Float32Array>();
    const logits = allocateLogits(ids.length, vocabSize);
    const job: Job = {
      ids,
      table: new BlockTable(),
      chunkSize: this.#chunkSize(ids, rows),
      runChunk: async (input, start) => {
        logits.set(await this.#executor.logits(input), start * vocabSize);
      },
      finish: () => result.resolve(logits),
      reject: result.reject,
    };
    return this.#run(job, result.promise, signal);
  }

  /**
   * Log-probabilities of every token but the first one, whose place holds null, with `count` alternatives each.
   *
   * @param ids - valid token ids that fit the context and the pool
   * @throws ERR_NON_FINITE, ERR_ABORTED, and what `failAll` is given
   */
  async score(
    ids: Int32Array,
    count: number,
    signal: AbortSignal | undefined,
  ): Promise<(TokenLogprob | null)[]> {
    const result = deferred<(TokenLogprob | null)[]>();
    const scores: (TokenLogprob | null)[] = [null];
    const job: Job = {
      ids,
      table: new BlockTable(),
      chunkSize: this.#chunkSize(ids),
      runChunk: async (input, start) => {
        const output = await this.#executor.execute(scoringInput(input, ids, start, count));
        if (output.finite.includes(0)) return this.#reject(job, nonFinite());
        scores.push(...readScores(output, ids, start, count));
      },
      finish: () => result.resolve(scores),
      reject: result.reject,
    };
    return this.#run(job, result.promise, signal);
  }

  /** Tokens run at once: at most `maxRows`, and no more than the pool can hold behind windows. */
  #chunkSize({ length }: Int32Array, maxRows = Infinity): number {
    const { maxTokens, maxOutputs } = this.#executor.limits;
    const { numUsableBlocks } = this.#blocks;
    let chunk = Math.min(maxRows, maxTokens, maxOutputs);
    while (chunk > 1 && this.#blocks.peakBlocks(length, chunk) > numUsableBlocks) {
      chunk = Math.ceil(chunk / 2);
    }
    return chunk;
  }

  async #run<T>(job: Job, result: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
    if (signal?.aborted) throw abortError(signal);
    this.#jobs.push(job);
    const stopListening = onAbort(signal, (error) => this.#reject(job, error));
    try {
      return await result;
    } finally {
      stopListening();
    }
  }

  /** Runs one chunk of the first job, once it has its blocks. Returns whether it did. */
  async step(): Promise<boolean> {
    const job = this.#jobs[0];
    if (job === undefined) return false;
    if (this.needsBlocks && !this.#promiseBlocks(job)) return false;
    const { table, ids, chunkSize } = job;
    const start = this.#numComputed;
    const end = Math.min(start + chunkSize, ids.length);
    const isAllocated = this.#blocks.allocate(table, end - start);
    assert(isAllocated, "promised blocks can be had");
    this.#inFlight = job;
    await job.runChunk(chunkInput(job, start, end, this.#blocks), start);
    this.#inFlight = undefined;
    this.#advance(job, end);
    return true;
  }

  /** Pins are given up before a job waits for blocks. */
  #promiseBlocks({ table, ids, chunkSize }: Job): boolean {
    const peak = this.#blocks.peakBlocks(ids.length, chunkSize);
    while (!this.#blocks.promise(table, peak)) {
      if (!this.#blocks.unpinOldest()) return false;
    }
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
    this.#blocks.releaseBehind(job.table, end);
    if (end < job.ids.length) return;
    this.#remove(job);
    job.finish();
  }

  #reject(job: Job, error: unknown): void {
    if (!this.#jobs.includes(job)) return;
    this.#remove(job);
    job.reject(error);
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
  const numSlots = table.groups.length * count;
  return {
    tokenIds: ids.subarray(start, end),
    positions: int32(count, (i) => start + i),
    queryStartLoc: Int32Array.of(0, count),
    seqLens: Int32Array.of(end),
    blockTable: int32(table.groups.length * table.numBlocks, (i) => {
      const group = table.groups[Math.floor(i / table.numBlocks)]!;
      return group.blocks[i % table.numBlocks]!;
    }),
    maxBlocks: table.numBlocks,
    slotMapping: int32(numSlots, (i) => {
      return blocks.slot(table, start + (i % count), Math.floor(i / count));
    }),
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

/** The same step, for the log-probabilities of the token behind each row instead of logits. */
function scoringInput(input: StepInput, ids: Int32Array, start: number, count: number): StepInput {
  const rows = input.outputRows.length;
  const hasNext = (row: number): boolean => start + row + 1 < ids.length;
  const targets = int32(rows, (row) => (hasNext(row) ? ids[start + row + 1]! : -1));
  const numLogprobs = int32(rows, (row) => (hasNext(row) ? count : -1));
  return { ...input, sampling: { ...input.sampling, targets, numLogprobs } };
}

function readScores(
  { logprobs }: StepOutput,
  ids: Int32Array,
  start: number,
  count: number,
): TokenLogprob[] {
  assert(logprobs !== undefined, "a step that asks for log-probabilities returns them");
  const next = ids.subarray(start + 1, start + 1 + logprobs.rank.length);
  return Array.from(next, (id, row) => tokenLogprob(logprobs, row, id, count));
}

function nonFinite(): PagodaError {
  const message = "The model produced logits that are NaN or infinite for the prompt";
  return new PagodaError("ERR_NON_FINITE", message);
}

/** @throws ERR_MEMORY */
function allocateLogits(rows: number, vocabSize: number): Float32Array {
  const bytes = rows * vocabSize * Float32Array.BYTES_PER_ELEMENT;
  try {
    return new Float32Array(rows * vocabSize);
  } catch (cause) {
    const message = `The logits of ${rows} tokens take ${bytes} bytes, which cannot be allocated`;
    throw new PagodaError("ERR_MEMORY", message, { details: { bytes }, cause });
  }
}
