import { checkInteger } from "../arguments.js";
import type { Plan } from "../graph/plan.js";
import type { ModelSource } from "../loading/model-directory.js";
import type { ModelDefinition } from "../models/model-definition.js";
import { defineModel } from "../models/registry.js";
import type { KvCacheOptions } from "../native.js";
import { samplingDefaults } from "../sampling/sampling-params.js";
import { compileCheckpoint, type CompiledCheckpoint } from "./compile-checkpoint.js";
import type { CheckedEngineOptions } from "./engine-options.js";
import {
  effectiveMaxModelLen,
  memoryDetails,
  sizeKvCache,
  type KvCacheShape,
} from "./kv-cache-size.js";
import { findWeights, type WeightSources } from "./load-weights.js";
import { measurePlan, type NativeJobs, type PlanMemory } from "./native-executor.js";
import { openNamedDevice, type PassedOverDevice } from "./open-device.js";

/** All that is decided before memory is allocated. Whether the memory suffices is not checked. */
export interface Prepared {
  readonly model: ModelDefinition;
  readonly plan: Plan;
  readonly sources: WeightSources;
  /** Open; whoever asked for the preparation closes it. */
  readonly device: NativeJobs;
  readonly passedOver: readonly PassedOverDevice[];
  readonly memory: PlanMemory;
  /** Bytes on the device; 0: unknown. */
  readonly availableMemory: number;
  readonly dtype: CompiledCheckpoint["dtype"];
  readonly kv: KvCacheOptions;
  readonly kvShape: KvCacheShape;
  readonly maxSequences: number;
  readonly enforceEager: boolean;
  /** What the context and the KV cache allow. */
  readonly maxModelLen: number;
}

/** Compiles the model, opens the device and measures the plan on it; allocates nothing there. */
export async function prepare(
  { config, checkpoint, generation }: ModelSource,
  options: CheckedEngineOptions,
): Promise<Prepared> {
  samplingDefaults(generation);
  const model = defineModel(config);
  const { maxBatchTokens, maxSequences } = options.scheduler;
  const contextLength = maxModelLen(model, options);
  const { mlaExpandFrom } = options;
  const limits = {
    maxTokens: maxBatchTokens,
    maxOutputs: maxSequences,
    mlaExpandFrom,
    maxModelLen: contextLength,
  };
  const compiled = compileCheckpoint(model, checkpoint, options.dtype, limits);
  const { plan, dtype } = compiled;
  const sources = await findWeights(plan, checkpoint);
  const { threads, enforceEager } = options;
  const { jobs: device, passedOver } = await openNamedDevice(options.device, {
    ...(threads !== undefined && { threads }),
    maxOutputs: plan.maxOutputs,
  });
  try {
    const measured = await measure(device, compiled, options, contextLength);
    const opened = { device, passedOver, enforceEager };
    return { model, plan, sources, dtype, maxSequences, ...opened, ...measured };
  } catch (error) {
    await device.close();
    throw error;
  }
}

/** Sizes the KV cache by the memory of the device. */
async function measure(
  device: NativeJobs,
  { plan, kvDtype }: CompiledCheckpoint,
  { kvCache, scheduler }: CheckedEngineOptions,
  contextLength: number,
): Promise<Pick<Prepared, "memory" | "availableMemory" | "kv" | "kvShape" | "maxModelLen">> {
  const { blockSize } = kvCache;
  const dtype = kvCache.dtype === "auto" ? kvDtype : kvCache.dtype;
  const memory = await measurePlan(device, plan, { blockSize, dtype });
  const { availableMemory } = device.device;
  const { maxSequences } = scheduler;
  const maxChunkTokens = Math.min(scheduler.maxChunkTokens, scheduler.maxBatchTokens);
  const kvShape = { kvGroups: plan.kvGroups, blockSize, maxChunkTokens };
  const demand = { ...kvCache, ...kvShape, maxSequences, maxModelLen: contextLength };
  const numBlocks = sizeKvCache(demand, memory, availableMemory);
  device.explainMemory(memoryDetails(memory, numBlocks, availableMemory));
  return {
    memory,
    availableMemory,
    kv: { numBlocks, blockSize, dtype },
    kvShape,
    maxModelLen: effectiveMaxModelLen(contextLength, numBlocks, kvShape),
  };
}

function maxModelLen({ maxPositionEmbeddings }: ModelDefinition, options: CheckedEngineOptions) {
  if (options.maxModelLen === undefined) return maxPositionEmbeddings;
  return checkInteger("maxModelLen", options.maxModelLen, { min: 2, max: maxPositionEmbeddings });
}
