import { setImmediate as yieldToEventLoop } from "node:timers/promises";
import type { Executor, ExecutorLimits } from "../engine/executor.js";
import type { SamplingInput, StepInput, StepOutput } from "../engine/step.js";
import { kvLayout, validateReadBlocks, validateWriteBlocks } from "../engine/kv-transfer.js";
import { validateSampling } from "../engine/validate-sampling.js";
import { validateStep } from "../engine/validate-step.js";
import { argumentError, assert, PagodaError } from "../errors.js";
import { kvSlots } from "../graph/kv-groups.js";
import type { Plan } from "../graph/plan.js";
import type { KvCacheOptions } from "../native.js";
import { blockParts, copyBlocks, createKvCache } from "./kv-cache.js";
import { matrix, rowOf } from "./matrix.js";
import { operandMatrix, runStep, type Memory } from "./run-step.js";
import { sample } from "./sample.js";

export interface ReferenceExecutorOptions {
  readonly plan: Plan;
  /** Float32 `[rows, cols]` of a weight of the plan; called once for each while the executor is made. */
  readonly weights: (index: number) => Float32Array;
  readonly kv: Omit<KvCacheOptions, "dtype"> & {
    /** @default "f32" */
    readonly dtype?: KvCacheOptions["dtype"];
  };
  /** Requests in one step at most. */
  readonly maxRequests: number;
}

/**
 * Runs a plan in plain TypeScript: the definition that native backends are held to, and a way to run engines without a
 * binary. Activations and KV cache are float32, sums are float64. It gives the event loop a turn after every op.
 */
export function createReferenceExecutor(options: ReferenceExecutorOptions): Executor {
  const { plan, kv, maxRequests } = options;
  const { maxTokens, maxOutputs, vocabSize, kvGroups } = plan;
  const { numBlocks, blockSize } = kv;
  const limits = { maxTokens, maxRequests, maxOutputs, numBlocks, blockSize, vocabSize, kvGroups };
  checkInteger("maxRequests", maxRequests, 1);
  checkInteger("blockSize", kv.blockSize, 1, 256);
  checkInteger("numBlocks", kv.numBlocks, 2, Math.floor((2 ** 31 - 1) / kv.blockSize));
  const layout = kvLayout({
    backend: "reference",
    isa: "",
    plan,
    kv: { blockSize, dtype: kv.dtype ?? "f32" },
  });
  return new ReferenceExecutor(limits, layout, createMemory(options));
}

function checkInteger(name: string, value: number, min: number, max = 2 ** 20): void {
  if (Number.isInteger(value) && value >= min && value <= max) return;
  throw argumentError(name, `an integer in [${min}, ${max}]`, value);
}

function createMemory({ plan, weights, kv }: ReferenceExecutorOptions): Memory {
  return {
    plan,
    // NaN, so that whatever reads a value that was never written shows.
    arena: new Float32Array(plan.arenaBytes / Float32Array.BYTES_PER_ELEMENT).fill(NaN),
    weights: plan.weights.map((weight, index) => {
      const data = weights(index);
      assert(
        data.length === weight.rows * weight.cols,
        `${weight.name} has ${weight.rows} x ${weight.cols} elements`,
      );
      return data;
    }),
    caches: kvSlots(plan).map((slot) => createKvCache(slot, { dtype: "f32", ...kv })),
  };
}

class ReferenceExecutor implements Executor {
  readonly limits: ExecutorLimits;
  readonly kvBlockBytes: number;
  readonly kvLayout: string;
  /** Undefined once closed. */
  #memory: Memory | undefined;
  /** Whether a step is under way. */
  #isRunning = false;
  /** Settles when all is done that was asked for so far; never rejects. */
  #last: Promise<unknown> = Promise.resolve();

  constructor(limits: ExecutorLimits, layout: string, memory: Memory) {
    this.limits = limits;
    this.kvLayout = layout;
    this.kvBlockBytes = Buffer.concat(blocksOf(memory, [0])).length;
    this.#memory = memory;
  }

  async execute(input: StepInput): Promise<StepOutput> {
    const output = await this.#exclusive(input, (memory) => runPlan(memory, input));
    assert(output !== undefined, "a plan ends with `sample`");
    return output;
  }

  logits(input: StepInput): Promise<Float32Array> {
    return this.#exclusive(input, async (memory) => {
      await runPlan(memory, input, { upTo: "sample" });
      return readLogits(memory, input);
    });
  }

  async sampleRows(logits: Float32Array, sampling: SamplingInput): Promise<StepOutput> {
    this.#openMemory();
    const { vocabSize, maxOutputs } = this.limits;
    const rows = sampling.temperature.length;
    checkInteger("rows", rows, 0, maxOutputs);
    checkInteger("logits.length", logits.length, rows * vocabSize, rows * vocabSize);
    validateSampling(sampling, rows, vocabSize);
    return sample(matrix(logits, vocabSize), sampling);
  }

  async readBlocks(blocks: Int32Array): Promise<Uint8Array> {
    const memory = this.#openMemory();
    validateReadBlocks(blocks, this);
    const ids = blocks.slice();
    return this.#inOrder(() => new Uint8Array(Buffer.concat(blocksOf(memory, ids))));
  }

  async writeBlocks(blocks: Int32Array, bytes: Uint8Array): Promise<void> {
    const memory = this.#openMemory();
    validateWriteBlocks(blocks, bytes, this);
    const [ids, copy] = [blocks.slice(), bytes.slice()];
    await this.#inOrder(() => {
      let offset = 0;
      for (const part of blocksOf(memory, ids)) {
        part.set(copy.subarray(offset, (offset += part.length)));
      }
    });
  }

  async close(): Promise<void> {
    this.#memory = undefined;
    await this.#last;
    await yieldToEventLoop(); // callers hear of their results first
  }

  /** Checks the input, then runs `work` as the one step under way. */
  async #exclusive<T>(input: StepInput, work: (memory: Memory) => Promise<T>): Promise<T> {
    const memory = this.#openMemory();
    assert(!this.#isRunning, "at most one step is under way");
    validateStep(input, this.limits);
    this.#isRunning = true;
    try {
      return await this.#inOrder(() => work(memory));
    } finally {
      this.#isRunning = false;
    }
  }

  #openMemory(): Memory {
    if (this.#memory !== undefined) return this.#memory;
    throw new PagodaError("ERR_CLOSED", "The executor is closed");
  }

  /** Runs `work` after all that was asked for before. */
  #inOrder<T>(work: () => T | Promise<T>): Promise<T> {
    const result = this.#last.then(work);
    this.#last = result.catch(() => undefined);
    return result;
  }
}

/** Views of the bytes of these blocks: block after block, layer after layer, keys before values. */
function blocksOf({ caches }: Memory, blocks: Iterable<number>): Uint8Array[] {
  return [...blocks].flatMap((block) => caches.flatMap((cache) => blockParts(cache, block)));
}

async function runPlan(
  memory: Memory,
  input: StepInput,
  options: { upTo?: "sample" } = {},
): Promise<StepOutput | undefined> {
  for (const cache of memory.caches) copyBlocks(cache, input.blockCopies);
  let output: StepOutput | undefined;
  for (const step of memory.plan.steps) {
    if (step.op === options.upTo) break;
    output = runStep(memory, step, input) ?? output;
    await yieldToEventLoop();
  }
  return output;
}

function readLogits({ plan, arena }: Memory, input: StepInput): Float32Array {
  const logits = operandMatrix(arena, plan.logits, input);
  const result = new Float32Array(logits.rows * logits.width);
  for (let row = 0; row < logits.rows; row++) result.set(rowOf(logits, row), row * logits.width);
  return result;
}
