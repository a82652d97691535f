import type { Executor } from "../../lib/engine/executor.js";
import {
  createNativeExecutor,
  NativeJobs,
  type WeightSink,
} from "../../lib/engine/native-executor.js";
import { PagodaError } from "../../lib/errors.js";
import type { Plan } from "../../lib/graph/plan.js";
import type { Checkpoint } from "../../lib/loading/safetensors.js";
import { resolveWeight } from "../../lib/loading/weights.js";
import type { KvCacheOptions } from "../../lib/native.js";
import { createReferenceExecutor } from "../../lib/reference/executor.js";

export interface TestExecutorOptions {
  readonly plan: Plan;
  /** Float32 [rows, cols] of each weight of the plan. */
  readonly weights: readonly Float32Array[];
  readonly kv: Omit<KvCacheOptions, "dtype">;
  readonly maxRequests: number;
  /** Where native executors read the weights themselves. @default they are given `weights` */
  readonly checkpoint?: Checkpoint;
}

/** A kind of executor that works on this machine. */
export interface ExecutorKind {
  /** "reference", or "cpu" and the instruction set. */
  readonly name: string;
  create(options: TestExecutorOptions): Promise<Executor>;
}

const isas = ["base", "avx2", "avx512", "neon"];

/** The reference and one native kind for each instruction set of this machine; only the reference without an addon. */
export async function executorKinds(): Promise<ExecutorKind[]> {
  const kinds: ExecutorKind[] = [
    {
      name: "reference",
      create: async (options) =>
        createReferenceExecutor({
          ...options,
          weights: (index) => options.weights[index] as Float32Array,
        }),
    },
  ];
  for (const isa of await nativeIsas()) {
    kinds.push({
      name: `cpu ${isa}`,
      create: (options) =>
        createNativeExecutor({
          plan: options.plan,
          maxRequests: options.maxRequests,
          isa,
          threads: 2,
          kv: { ...options.kv, dtype: "f32" },
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
    if (parts.length > 0) await sink.load(index, parts);
    else await sink.set(index, weights[index] as Float32Array);
  }
}

/** Instruction sets of the CPU backend that this machine has; none without an addon. */
export async function nativeIsas(): Promise<string[]> {
  const usable: string[] = [];
  for (const isa of isas) {
    try {
      const jobs = new NativeJobs({ isa, threads: 1 }, 1);
      try {
        await jobs.run((native) => native.openDevice());
        usable.push(isa);
      } finally {
        await jobs.close();
      }
    } catch (error) {
      const expected = ["ERR_NATIVE_NOT_FOUND", "ERR_BACKEND_UNAVAILABLE"] as const;
      if (!expected.some((code) => PagodaError.is(error, code))) throw error;
    }
  }
  return usable;
}
