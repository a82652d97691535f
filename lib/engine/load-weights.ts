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

/** Finds all weights before any is read. @throws ERR_TENSOR_MISMATCH */
export function findWeights(plan: Plan, checkpoint: Checkpoint): WeightSources {
  const parts = plan.weights.map((weight) => resolveWeight(checkpoint, weight));
  const bytes = plan.weights.map(({ kind, cols }, index) => {
    const rowLength = kind === "vector" ? 1 : cols;
    return sum(parts[index]!.map((part) => part.rows * rowBytes(part.dtype, rowLength)));
  });
  return { parts, bytes };
}

/**
 * Loads the weights in order. Two are under way at a time, so that the device goes on without waiting for the event loop.
 * Gives up as soon as the signal fires; the sink must then be closed, which ends what is under way.
 * @throws ERR_ABORTED, ERR_MODEL_CORRUPT
 */
export async function loadWeights(
  plan: Plan,
  { parts, bytes }: WeightSources,
  sink: WeightSink,
  { signal, progress }: { signal: AbortSignal; progress: ProgressReporter },
): Promise<void> {
  throwIfAborted(signal);
  const aborted = deferred<never>();
  const stopListening = onAbort(signal, aborted.reject);
  ignoreRejection(aborted.promise);
  const start = (index: number): Promise<void> | undefined => {
    const source = plan.weights[index]?.source;
    if (source === undefined) return undefined;
    const load = "data" in source ? sink.set(index, source.data) : sink.load(index, parts[index]!);
    ignoreRejection(load);
    return load;
  };
  const total = sum(bytes);
  let loaded = 0;
  let next = start(0);
  try {
    for (let index = 0; next !== undefined; index++) {
      const current: Promise<void> = next;
      next = start(index + 1);
      progress.report({ phase: "weights", loaded, total });
      await Promise.race([current, aborted.promise]);
      loaded += bytes[index]!;
    }
  } finally {
    stopListening();
  }
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
