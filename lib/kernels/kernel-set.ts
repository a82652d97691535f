import { checkInteger } from "../arguments.js";
import { argumentError, PagodaError } from "../errors.js";
import { openPlan, type NativeExecutor } from "../engine/native-executor.js";
import { openNamedDevice } from "../engine/open-device.js";
import type { StepInput } from "../engine/step.js";
import { validateStep } from "../engine/validate-step.js";
import type { Plan } from "../graph/plan.js";
import type { KvCacheOptions } from "../native.js";
import type { KernelBatch } from "./kernel-batch.js";
import { planKernels, type KernelPlanOptions } from "./kernel-plan.js";

/** Where kernels run. */
export interface KernelDevice {
  /** "cpu", "auto" or for example "cuda:0". @default "cpu" */
  readonly device?: string;
  /** Workers of the CPU. @default the number of cores */
  readonly threads?: number;
}

export interface KernelSetOptions extends KernelPlanOptions, KernelDevice {
  readonly kv: KvCacheOptions;
  readonly maxRequests: number;
}

/** Steps of a plan that are run one at a time, on a thread of their own, over one KV cache. */
export class KernelSet {
  readonly #plan: Plan;
  readonly #executor: NativeExecutor;
  /** Settles with the calls made so far. */
  #calls: Promise<unknown> = Promise.resolve();
  #closing: Promise<void> | undefined;

  private constructor(plan: Plan, executor: NativeExecutor) {
    this.#plan = plan;
    this.#executor = executor;
  }

  static async open(options: KernelSetOptions): Promise<KernelSet> {
    const { device = "cpu", threads, weights, kv, maxRequests } = options;
    if (typeof device !== "string") throw argumentError("device", "a string", device);
    if (threads !== undefined) checkInteger("threads", threads, { min: 1, max: 1024 });
    const plan = planKernels(options);
    const { jobs } = await openNamedDevice(device, {
      ...(threads !== undefined && { threads }),
      maxOutputs: plan.maxOutputs,
    });
    const executor = await openPlan(jobs, {
      plan,
      kv,
      maxRequests,
      loadWeights: async (sink) => {
        for (const [index, { data }] of weights.entries()) await sink.set(index, data);
      },
    });
    return new KernelSet(plan, executor);
  }

  /**
   * Runs one step. Calls run in the order in which they are made.
   *
   * @param inputs - of the step, `[tokens, width]` each; copied at once
   * @returns the step's output, empty where it has none
   */
  async run(
    step: number,
    inputs: readonly Float32Array[],
    batch: KernelBatch,
  ): Promise<Float32Array> {
    if (this.#closing !== undefined) throw new PagodaError("ERR_CLOSED", "The cache is closed");
    const input = stepInput(batch);
    validateStep(input, this.#executor.limits);
    const call = this.#start(step, inputs, input);
    this.#calls = Promise.allSettled([this.#calls, call]);
    return call;
  }

  /** Queues the three jobs of a call at once, so that those of other calls do not come between them. */
  async #start(
    step: number,
    inputs: readonly Float32Array[],
    input: StepInput,
  ): Promise<Float32Array> {
    const { jobs } = this.#executor;
    const { inputs: places = [], output } = this.#plan.steps[step] ?? {};
    const written = inputs.map((data, i) => {
      return jobs.run((native) => native.writeArena(places[i]?.offset ?? 0, data));
    });
    const done = jobs.run((native) => native.stepOne(input, step));
    const length = (output?.width ?? 0) * input.tokenIds.length;
    const read = jobs.floats((native) => native.readArena(output?.offset ?? 0, length));
    const [floats] = await Promise.all([read, done, ...written]);
    return floats;
  }

  /** Frees its memory; calls under way end first, later ones reject with ERR_CLOSED. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#calls.then(() => this.#executor.close());
    return this.#closing;
  }
}

function stepInput(batch: KernelBatch): StepInput {
  const { tokens, seqLens, blockTable } = batch;
  const none = new Int32Array();
  return {
    tokenIds: new Int32Array(tokens),
    positions: new Int32Array(tokens),
    queryStartLoc: batch.queryStartLoc,
    seqLens,
    blockTable,
    maxBlocks: blockTable.length / Math.max(seqLens.length, 1),
    slotMapping: batch.slotMapping ?? new Int32Array(tokens).fill(-1),
    blockCopies: batch.blockCopies ?? none,
    outputRows: none,
    sampling: {
      temperature: new Float32Array(),
      topK: none,
      topP: new Float32Array(),
      minP: new Float32Array(),
      seed: new Uint32Array(),
      position: none,
    },
  };
}
