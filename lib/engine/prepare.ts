import { checkInteger } from "../arguments.js";
import { chooseDevice } from "../backends.js";
import type { Plan } from "../graph/plan.js";
import type { ModelSource } from "../loading/model-directory.js";
import type { ModelDefinition } from "../models/model-definition.js";
import { defineModel } from "../models/registry.js";
import type { KvCacheOptions } from "../native.js";
import { samplingDefaults } from "../sampling/sampling-params.js";
import { compileCheckpoint, type CompiledCheckpoint } from "./compile-checkpoint.js";
import type { CheckedEngineOptions } from "./engine-options.js";
import { effectiveMaxModelLen, sizeKvCache, type KvCacheShape } from "./kv-cache-size.js";
import { findWeights, type WeightSources } from "./load-weights.js";
import { measurePlan, type DeviceSelection, type PlanMemory } from "./native-executor.js";

/** All that is decided before memory is allocated. Whether the memory suffices is not checked. */
export interface Prepared {
  readonly model: ModelDefinition;
  readonly plan: Plan;
  readonly sources: WeightSources;
  readonly device: DeviceSelection;
  readonly memory: PlanMemory;
  /** Bytes on the device; 0: unknown. */
  readonly availableMemory: number;
  readonly dtype: CompiledCheckpoint["dtype"];
  readonly kv: KvCacheOptions;
  readonly kvShape: KvCacheShape;
  readonly maxSequences: number;
  /** What the context and the KV cache allow. */
  readonly maxModelLen: number;
}

/** Compiles the model and measures its plan on the device. Opens the device for a moment, but allocates nothing on it. */
export async function prepare(
  { config, checkpoint, generation }: ModelSource,
  options: CheckedEngineOptions,
): Promise<Prepared> {
  samplingDefaults(generation);
  const model = defineModel(config);
  const { maxBatchTokens, maxSequences } = options.scheduler;
  const contextLength = maxModelLen(model, options);
  const limits = { maxTokens: maxBatchTokens, maxOutputs: maxSequences };
  const compiled = compileCheckpoint(model, checkpoint, options.dtype, limits);
  const { plan, dtype } = compiled;
  const sources = findWeights(plan, checkpoint);
  const { threads } = options;
  const device = { ...chooseDevice(options.device), ...(threads !== undefined && { threads }) };
  const { blockSize } = options.kvCache;
  const kvDtype = options.kvCache.dtype === "auto" ? compiled.kvDtype : options.kvCache.dtype;
  const measured = await measurePlan(plan, { blockSize, dtype: kvDtype }, device);
  const { memory } = measured;
  const { availableMemory } = measured.device;
  const maxChunkTokens = Math.min(options.scheduler.maxChunkTokens, maxBatchTokens);
  const { kvGroups } = plan;
  const kvShape = { kvGroups, blockSize, maxChunkTokens };
  const demand = { ...options.kvCache, ...kvShape, maxSequences, maxModelLen: contextLength };
  const numBlocks = sizeKvCache(demand, memory, availableMemory);
  return {
    model,
    plan,
    sources,
    device,
    memory,
    availableMemory,
    dtype,
    kv: { numBlocks, blockSize, dtype: kvDtype },
    kvShape,
    maxSequences,
    maxModelLen: effectiveMaxModelLen(contextLength, numBlocks, kvShape),
  };
}

function maxModelLen({ maxPositionEmbeddings }: ModelDefinition, options: CheckedEngineOptions) {
  if (options.maxModelLen === undefined) return maxPositionEmbeddings;
  return checkInteger("maxModelLen", options.maxModelLen, { min: 2, max: maxPositionEmbeddings });
}
