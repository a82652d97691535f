import { setImmediate as nextTurn } from "node:timers/promises";
import { rowBytes } from "../graph/dtypes.js";
import type { Plan } from "../graph/plan.js";
import { throwIfAborted, type Checkpoint } from "../loading/safetensors.js";
import { resolveWeight } from "../loading/weights.js";
import type { NativeWeightPart } from "../native.js";
import { onAbort } from "./abort.js";
import { deferred } from "./deferred.js";
import type { WeightSink } from "./native-executor.js";
import type { LoadProgress } from "./types.js";

/** Where the weights of a plan lie. */
export interface WeightSources {
  /** By weight; none for constant data. */
  readonly parts: readonly (readonly NativeWeightPart[])[];
  /** Bytes in files, by weight. */
  readonly bytes: readonly number[];
}

/** How long finding weights may hold the event loop before it lets others run. */
const sliceMilliseconds = 2;

/** Finds all weights before any is read. @throws ERR_TENSOR_MISMATCH */
export async function findWeights(plan: Plan, checkpoint: Checkpoint): Promise<WeightSources> {
  const parts: NativeWeightPart[][] = [];
  const bytes: number[] = [];
  let sliceEnd = performance.now() + sliceMilliseconds;
  for (const weight of plan.weights) {
    const found = resolveWeight(checkpoint, weight);
    const rowLength = weight.kind === "vector" ? 1 : weight.cols;
    parts.push(found);
    bytes.push(sum(found.map((part) => part.rows * rowBytes(part.dtype, rowLength))));
    if (performance.now() < sliceEnd) continue;
    await nextTurn();
    sliceEnd = performance.now() + sliceMilliseconds;
  }
  return { parts, bytes };
}

/** Weights that are loaded by one job: so many bytes that the device does not wait, and progress is seen. */
const batchBytes = 64 * 2 ** 20;
/** Each weight may have files open. */
const batchWeights = 64;

/** One job of the sink. */
interface Batch {
  readonly bytes: number;
  start(sink: WeightSink): Promise<void>;
}

/**
 * Loads the weights in order. Two batches are under way at a time, so that the device goes on without waiting for the event
 * loop. Gives up as soon as the signal fires; the sink must then be closed, which ends what is under way.
 * @throws ERR_ABORTED, ERR_MODEL_CORRUPT
 */
export async function loadWeights(
  plan: Plan,
  sources: WeightSources,
  sink: WeightSink,
  { signal, progress }: { signal: AbortSignal; progress: ProgressReporter },
): Promise<void> {
  throwIfAborted(signal);
  const aborted = deferred<never>();
  const stopListening = onAbort(signal, aborted.reject);
  ignoreRejection(aborted.promise);
  const batches = batchesOf(plan, sources);
  const start = (batch: Batch | undefined): Promise<void> | undefined => {
    const load = batch?.start(sink);
    if (load !== undefined) ignoreRejection(load);
    return load;
  };
  const total = sum(sources.bytes);
  let loaded = 0;
  let next = start(batches[0]);
  try {
    for (const [i, { bytes }] of batches.entries()) {
      const current = next;
      next = start(batches[i + 1]);
      progress.report({ phase: "weights", loaded, total });
      await Promise.race([current, aborted.promise]);
      loaded += bytes;
    }
  } finally {
    stopListening();
  }
}

function batchesOf({ weights }: Plan, { parts, bytes }: WeightSources): Batch[] {
  const batches: Batch[] = [];
  let indices: number[] = [];
  const size = (): number => sum(indices.map((index) => bytes[index]!));
  const flush = (): void => {
    const sources = indices.map((index) => ({ index, parts: parts[index]! }));
    if (sources.length > 0) batches.push({ bytes: size(), start: (sink) => sink.load(sources) });
    indices = [];
  };
  for (const [index, { source }] of weights.entries()) {
    if ("data" in source) {
      batches.push({ bytes: 0, start: (sink) => sink.set(index, source.data) });
      continue;
    }
    indices.push(index);
    if (size() >= batchBytes || indices.length === batchWeights) flush();
  }
  flush();
  return batches;
}

/** For a promise that is awaited only where nothing else fails before. */
function ignoreRejection(promise: Promise<unknown>): void {
  promise.catch(() => {});
}

/** Reports at most about 30 times a second; a new phase is always reported. */
export class ProgressReporter {
  readonly #onProgress: ((progress: LoadProgress) => void) | undefined;
  #lastAt = -Infinity;
  #lastPhase: string | undefined;

  constructor(onProgress: ((progress: LoadProgress) => void) | undefined) {
    this.#onProgress = onProgress;
  }

  report(progress: LoadProgress): void {
    const now = performance.now();
    if (progress.phase === this.#lastPhase && now - this.#lastAt < 1000 / 30) return;
    this.#lastAt = now;
    this.#lastPhase = progress.phase;
    this.#onProgress?.(progress);
  }
}

export function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
