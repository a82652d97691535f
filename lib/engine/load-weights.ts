import { rowBytes } from "../graph/dtypes.js";
import type { Plan } from "../graph/plan.js";
import { throwIfAborted, type Checkpoint } from "../loading/safetensors.js";
import { resolveWeight } from "../loading/weights.js";
import type { NativeWeightPart } from "../native.js";
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

/** Loads one weight after another; the signal is looked at in between. @throws ERR_ABORTED, ERR_MODEL_CORRUPT */
export async function loadWeights(
  plan: Plan,
  { parts, bytes }: WeightSources,
  sink: WeightSink,
  { signal, progress }: { signal: AbortSignal; progress: ProgressReporter },
): Promise<void> {
  const total = sum(bytes);
  let loaded = 0;
  for (const [index, { source }] of plan.weights.entries()) {
    throwIfAborted(signal);
    progress.report({ phase: "weights", loaded, total });
    if ("data" in source) await sink.set(index, source.data);
    else await sink.load(index, parts[index]!);
    loaded += bytes[index]!;
  }
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
