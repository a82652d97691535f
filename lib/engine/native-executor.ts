import { PagodaError, type ErrorCode } from "../errors.js";
import type { Plan } from "../graph/plan.js";
import {
  loadNative,
  type DeviceInfo,
  type KvCacheOptions,
  type NativeEngine,
  type NativeEngineOptions,
  type NativeWeightSource,
} from "../native.js";
import type { Executor, ExecutorLimits } from "./executor.js";
import { kvLayout, validateReadBlocks, validateWriteBlocks } from "./kv-transfer.js";
import type { SamplingInput, StepInput, StepLogprobs, StepOutput } from "./step.js";

/** Where weights go while a model is loaded. Indices are those of `plan.weights`. */
export interface WeightSink {
  /** Reads and packs weights, off the event loop; about as many files are open as there are weights. */
  load(weights: readonly NativeWeightSource[]): Promise<void>;
  /** Packs constant data, float32 [rows, cols]. */
  set(index: number, data: Float32Array): Promise<void>;
}

/** Which device, and how it is used. */
export interface DeviceSelection {
  /** "cpu", or the path of a plug-in. @default "cpu" */
  readonly backend?: string;
  /** Index of the device; -1: the first one that can be used. @default 0 */
  readonly device?: number;
  /** CPU workers. @default the number of cores */
  readonly threads?: number;
  /** Instruction set by name, for tests. @default the best of the machine */
  readonly isa?: string;
}

export interface PlanOptions {
  readonly plan: Plan;
  readonly kv: KvCacheOptions;
  /** Requests in one step at most. */
  readonly maxRequests: number;
  /** Whether ops are always queued one by one, never as a recorded graph. @default false */
  readonly enforceEager?: boolean;
  /** Called once memory is allocated. When it rejects, everything is freed and the error is passed on. */
  readonly loadWeights: (sink: WeightSink) => Promise<void>;
}

/** What a plan needs on a device, in bytes. */
export interface PlanMemory {
  readonly weights: number;
  readonly arena: number;
  /** One KV block over all slots. */
  readonly kvBlock: number;
}

/** An {@link Executor} over the native addon. */
export interface NativeExecutor extends Executor {
  readonly device: DeviceInfo;
  /** The raw engine, for profiling and single-op tests. */
  readonly jobs: NativeJobs;
}

/** @param maxOutputs of the plan that will be opened on it */
export async function openDevice(
  selection: DeviceSelection,
  maxOutputs: number,
): Promise<NativeJobs> {
  const jobs = new NativeJobs(selection, maxOutputs);
  try {
    await jobs.run((native) => native.openDevice());
    return jobs;
  } catch (error) {
    await jobs.close();
    throw error;
  }
}

/** Opens the device, then the plan on it. */
export async function createNativeExecutor(
  options: PlanOptions & DeviceSelection,
): Promise<NativeExecutor> {
  return openPlan(await openDevice(options, options.plan.maxOutputs), options);
}

/** Allocates the plan's memory and loads its weights. The device is closed with the executor, and when this fails. */
export async function openPlan(jobs: NativeJobs, options: PlanOptions): Promise<NativeExecutor> {
  const { plan, kv, maxRequests, enforceEager = false } = options;
  let kvBlockBytes: number;
  try {
    const opened = jobs.run((native) => native.open(plan, kv, maxRequests, enforceEager));
    kvBlockBytes = countAt(await opened, 0);
    await options.loadWeights({
      load: async (weights) => {
        await jobs.run((native) => native.loadWeights(weights));
      },
      set: async (index, data) => {
        await jobs.run((native) => native.setWeight(index, data));
      },
    });
  } catch (error) {
    await jobs.close();
    throw error;
  }
  const limits: ExecutorLimits = {
    maxTokens: plan.maxTokens,
    maxRequests,
    maxOutputs: plan.maxOutputs,
    numBlocks: kv.numBlocks,
    blockSize: kv.blockSize,
    vocabSize: plan.vocabSize,
    kvGroups: plan.kvGroups,
  };
  const { device } = jobs;
  return {
    limits,
    jobs,
    device,
    ...blockTransfers(jobs, limits, kvBlockBytes),
    kvLayout: kvLayout({ ...device, plan, kv }),
    execute: (input) => sampled(jobs, input.sampling, (native) => native.step(input)),
    logits: (input: StepInput) => jobs.floats((native) => native.stepLogits(input)),
    sampleRows: (logits, sampling) =>
      sampled(jobs, sampling, (native) => native.sampleRows(logits, sampling)),
    close: () => jobs.close(),
  };
}

/** Checked here as well as natively, so that a wrong length is refused before it is copied. */
function blockTransfers(
  jobs: NativeJobs,
  limits: ExecutorLimits,
  kvBlockBytes: number,
): Pick<Executor, "kvBlockBytes" | "readBlocks" | "writeBlocks"> {
  return {
    kvBlockBytes,
    readBlocks: async (blocks) => {
      validateReadBlocks(blocks, { limits, kvBlockBytes });
      return jobs.bytes((native) => native.readBlocks(blocks));
    },
    writeBlocks: async (blocks, bytes) => {
      validateWriteBlocks(blocks, bytes, { limits, kvBlockBytes });
      await jobs.run((native) => native.writeBlocks(blocks, bytes));
    },
  };
}

/** What `plan` would need on a device, without allocating it. */
export async function measurePlan(
  device: NativeJobs,
  plan: Plan,
  kv: Omit<KvCacheOptions, "numBlocks">,
): Promise<PlanMemory> {
  const words = await device.run((native) => native.measure(plan, kv));
  return { weights: countAt(words, 0), arena: countAt(words, 1), kvBlock: countAt(words, 2) };
}

/** The `index`-th of 64-bit counts that are two words each, low first. */
function countAt(words: Int32Array, index: number): number {
  return ((words[2 * index] ?? 0) >>> 0) + ((words[2 * index + 1] ?? 0) >>> 0) * 2 ** 32;
}

/** Runs a job that samples. What it needs of `sampling` is read before the job starts. */
async function sampled(
  jobs: NativeJobs,
  { numLogprobs }: SamplingInput,
  start: (native: NativeEngine) => number,
): Promise<StepOutput> {
  if (numLogprobs === undefined) return toStepOutput(await jobs.run(start));
  const width = numLogprobs.reduce((a, b) => Math.max(a, b), 0);
  const { values, floats } = await jobs.valuesAndFloats(start);
  return { ...toStepOutput(values), logprobs: toLogprobs(floats, numLogprobs.length, width) };
}

/** Integers lie among the floats by their bits. */
function toLogprobs(floats: Float32Array, rows: number, width: number): StepLogprobs {
  const ints = new Int32Array(floats.buffer, floats.byteOffset, floats.length);
  const top = 2 * rows + rows * width;
  return {
    logprob: floats.subarray(0, rows),
    rank: ints.subarray(rows, 2 * rows),
    width,
    topIds: ints.subarray(2 * rows, top),
    topLogprobs: floats.subarray(top),
  };
}

function toStepOutput(pairs: Int32Array): StepOutput {
  const rows = pairs.length / 2;
  const tokens = new Int32Array(rows);
  const finite = new Int32Array(rows);
  for (let row = 0; row < rows; row++) {
    tokens[row] = pairs[2 * row] ?? 0;
    finite[row] = pairs[2 * row + 1] ?? 0;
  }
  return { tokens, finite };
}

interface PendingJob {
  readonly resolve: (values: Int32Array) => void;
  readonly reject: (error: PagodaError) => void;
}

/**
 * Turns the native engine's jobs into promises.
 *
 * The native side holds `onWake` for ever, and `onWake` must not hold this object for ever, or an engine that nobody
 * closed would never be collected; but it must while jobs are under way, or a running engine would be collected. So `onWake`
 * knows only `link`, which holds strongly while jobs are pending and weakly otherwise.
 */
export class NativeJobs {
  readonly #native: NativeEngine;
  readonly #pending = new Map<number, PendingJob>();
  readonly #link: { strong: NativeJobs | undefined; readonly weak: WeakRef<NativeJobs> };
  readonly #drained: Int32Array;
  #memory: Readonly<Record<string, number>> | undefined;
  #closing: Promise<void> | undefined;

  constructor(selection: DeviceSelection, maxOutputs: number) {
    const options: NativeEngineOptions = {
      backend: selection.backend ?? "cpu",
      device: selection.device ?? 0,
      threads: selection.threads ?? 0,
      isa: selection.isa ?? "",
    };
    const link: { strong: NativeJobs | undefined; readonly weak: WeakRef<NativeJobs> } = {
      strong: undefined,
      weak: new WeakRef<NativeJobs>(this),
    };
    this.#link = link;
    this.#drained = new Int32Array(Math.max(1024, 3 + 2 * maxOutputs));
    const onWake = (): void => {
      const jobs = link.strong ?? link.weak.deref();
      if (jobs !== undefined) jobs.#drain();
    };
    this.#native = coded(() => new (loadNative().NativeEngine)(options, onWake));
  }

  /** @throws PagodaError ERR_INTERNAL before the device is open, ERR_CLOSED afterwards */
  get device(): DeviceInfo {
    const device = coded(() => this.#native.device);
    if (device === undefined) throw new PagodaError("ERR_INTERNAL", "The device is not open");
    return device;
  }

  /** What the plan needs: `details` of every ERR_MEMORY from now on. */
  explainMemory(details: Readonly<Record<string, number>>): void {
    this.#memory = details;
  }

  /** Starts a job and waits for its values. */
  run(start: (native: NativeEngine) => number): Promise<Int32Array> {
    return new Promise((resolve, reject) => {
      const job = coded(() => start(this.#native));
      if (this.#pending.size === 0) this.#hold();
      this.#pending.set(job, { resolve, reject });
    });
  }

  /** Starts a job and waits for its floats. */
  async floats(start: (native: NativeEngine) => number): Promise<Float32Array> {
    return (await this.valuesAndFloats(start)).floats;
  }

  /** Starts a job and waits for its bytes. */
  async bytes(start: (native: NativeEngine) => number): Promise<Uint8Array> {
    let id = 0;
    await this.run((native) => (id = start(native)));
    return this.#native.takeBytes(id);
  }

  /** Starts a job and waits for both of its results. */
  async valuesAndFloats(
    start: (native: NativeEngine) => number,
  ): Promise<{ values: Int32Array; floats: Float32Array }> {
    let id = 0;
    const values = await this.run((native) => (id = start(native)));
    return { values, floats: this.#native.takeFloats(id) };
  }

  /** Waits for the job under way; those still queued reject with ERR_CLOSED. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.run((native) => native.close()).then(() => this.#native.join());
    return this.#closing;
  }

  #hold(): void {
    this.#link.strong = this;
    this.#native.ref();
  }

  #letGo(): void {
    this.#link.strong = undefined;
    this.#native.unref();
  }

  #drain(): void {
    for (;;) {
      const words = this.#native.drain(this.#drained);
      if (words === 0) break;
      this.#settle(words);
    }
    if (this.#pending.size === 0) this.#letGo();
  }

  /** Settles the jobs in the first `words` words of `#drained`: [job, failed, count, ...values] each. */
  #settle(words: number): void {
    let at = 0;
    while (at < words) {
      const job = this.#drained[at] ?? 0;
      const failed = this.#drained[at + 1] !== 0;
      const end = at + 3 + (this.#drained[at + 2] ?? 0);
      const pending = this.#pending.get(job);
      this.#pending.delete(job);
      if (failed) pending?.reject(toPagodaError(this.#native.takeError(job), this.#memory));
      else pending?.resolve(this.#drained.slice(at + 3, end));
      at = end;
    }
  }
}

function toPagodaError(
  { code, message }: { readonly code: string; readonly message: string },
  memory: Readonly<Record<string, number>> | undefined,
): PagodaError {
  const isExplained = code === "ERR_MEMORY" && memory !== undefined;
  return new PagodaError(code as ErrorCode, message, isExplained ? { details: memory } : {});
}

/** Turns an error that the addon threw into a PagodaError. */
function coded<T>(call: () => T): T {
  try {
    return call();
  } catch (error) {
    const code = (error as { code?: unknown }).code;
    if (PagodaError.is(error) || typeof code !== "string") throw error;
    throw new PagodaError(code as ErrorCode, (error as Error).message, { cause: error });
  }
}
