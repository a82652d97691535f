import type { Executor } from "../../lib/engine/executor.js";
import { createNativeExecutor, type WeightSink } from "../../lib/engine/native-executor.js";
import type { Plan } from "../../lib/graph/plan.js";
import type { Checkpoint } from "../../lib/loading/safetensors.js";
import { resolveWeight } from "../../lib/loading/weights.js";
import type { KvCacheOptions } from "../../lib/native.js";
import { createReferenceExecutor } from "../../lib/reference/executor.js";
import { emulatedDevices, testDevices } from "./devices.js";

export interface TestExecutorOptions {
  readonly plan: Plan;
  /** Float32 [rows, cols] of each weight of the plan. */
  readonly weights: readonly Float32Array[];
  /** `dtype`: f32 unless it is said. */
  readonly kv: Omit<KvCacheOptions, "dtype"> & Partial<Pick<KvCacheOptions, "dtype">>;
  readonly maxRequests: number;
  /** Where native executors read the weights themselves. @default they are given `weights` */
  readonly checkpoint?: Checkpoint;
}

/** A kind of executor that works on this machine. */
export interface ExecutorKind {
  /** "reference", or the device. */
  readonly name: string;
  readonly mayLackOps: boolean;
  readonly isEmulated?: boolean;
  readonly roundsWeights?: boolean;
  create(options: TestExecutorOptions): Promise<Executor>;
}

/**
 * The reference and one kind for each of {@link testDevices}.
 *
 * @param options.emulatedGpus - how many emulated GPUs besides, which are slow: 2 differ in products and attention. @default 0
 */
export async function executorKinds({ emulatedGpus = 0 } = {}): Promise<ExecutorKind[]> {
  const kinds: ExecutorKind[] = [
    {
      name: "reference",
      mayLackOps: false,
      create: async (options) =>
        createReferenceExecutor({
          ...options,
          weights: (index) => options.weights[index] as Float32Array,
        }),
    },
  ];
  const devices = [...(await testDevices()), ...emulatedDevices().slice(0, emulatedGpus)];
  for (const {
    name,
    selection,
    mayLackOps,
    isEmulated = false,
    roundsWeights = false,
  } of devices) {
    kinds.push({
      name,
      mayLackOps,
      isEmulated,
      roundsWeights,
      create: (options) =>
        createNativeExecutor({
          ...selection,
          plan: options.plan,
          maxRequests: options.maxRequests,
          kv: { dtype: "f32", ...options.kv },
          loadWeights: (sink) => loadWeights(sink, options),
        }),
    });
  }
  return kinds;
}

async function loadWeights(sink: WeightSink, options: TestExecutorOptions): Promise<void> {
  const { plan, weights, checkpoint } = options;
  for (const [index, weight] of plan.weights.entries()) {
    const parts = checkpoint === undefined ? [] : resolveWeight(checkpoint, weight);
    if (parts.length > 0) await sink.load([{ index, parts }]);
    else await sink.set(index, weights[index] as Float32Array);
  }
}
