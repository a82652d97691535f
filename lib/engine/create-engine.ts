import { checkInteger } from "../arguments.js";
import { chooseDevice } from "../backends.js";
import { readEnvironment } from "../environment.js";
import { planToString } from "../graph/plan-to-string.js";
import type { Plan } from "../graph/plan.js";
import { openModelDirectory, type ModelDirectory } from "../loading/model-directory.js";
import { throwIfAborted } from "../loading/safetensors.js";
import { loadTokenizer, type Tokenizer } from "../loading/tokenizer.js";
import { automaticDtype } from "../loading/weights.js";
import { compileModel, type ModelDefinition } from "../models/model-definition.js";
import { defineModel } from "../models/registry.js";
import type { KvCacheOptions } from "../native.js";
import { samplingDefaults } from "../sampling/sampling-params.js";
import { onAbort } from "./abort.js";
import { LlmEngine } from "./engine.js";
import { checkEngineOptions, type CheckedEngineOptions, type Dtype } from "./engine-options.js";
import { effectiveMaxModelLen, sizeKvCache } from "./kv-cache-size.js";
import {
  findWeights,
  loadWeights,
  ProgressReporter,
  sum,
  type WeightSources,
} from "./load-weights.js";
import {
  createNativeExecutor,
  measurePlan,
  type DeviceSelection,
  type NativeExecutor,
  type PlanMemory,
} from "./native-executor.js";
import { profiledExecutor } from "./profiled-executor.js";
import type { Engine, EngineInfo, EngineOptions } from "./types.js";

/**
 * Loads a model and starts an engine for it. Everything is checked before memory is allocated; when loading fails or is
 * cancelled, nothing is left behind.
 *
 * @throws PagodaError
 *   ERR_ARGUMENT (an option), ERR_MODEL_NOT_FOUND, ERR_MODEL_UNSUPPORTED, ERR_MODEL_CORRUPT, ERR_CONFIG_INVALID,
 *   ERR_TENSOR_MISMATCH, ERR_TOKENIZER_INVALID, ERR_MEMORY, ERR_NATIVE_NOT_FOUND, ERR_BACKEND_UNAVAILABLE,
 *   ERR_BACKEND_UNSUPPORTED, ERR_ABORTED
 */
export async function createEngine(options: EngineOptions): Promise<Engine> {
  const startedAt = performance.now();
  const checked = checkEngineOptions(options);
  const { signal, onProgress } = checked;
  const progress = new ProgressReporter(onProgress);
  progress.report({ phase: "open", loaded: 0, total: 0 });
  const directory = await openModelDirectory(checked.model, signal === undefined ? {} : { signal });
  const prepared = await prepare(directory, checked);
  throwIfAborted(signal);
  const [executor, tokenizer] = await loadTogether(
    (signal) => loadExecutor(prepared, { signal, progress }),
    (signal) => loadTokenizer(directory.path, { signal }),
    signal,
  );
  const total = sum(prepared.sources.bytes);
  const info = describeEngine(directory, prepared, executor, tokenizer, startedAt);
  const { scheduler } = checked;
  const { generation } = directory;
  const engine = new LlmEngine({ executor, tokenizer, info, generation, scheduler });
  try {
    throwIfAborted(signal);
    progress.report({ phase: "ready", loaded: total, total });
  } catch (error) {
    await engine.close();
    throw error;
  }
  return engine;
}

/** All that is decided before memory is allocated. */
interface Prepared {
  readonly model: ModelDefinition;
  readonly plan: Plan;
  readonly sources: WeightSources;
  readonly device: DeviceSelection;
  readonly memory: PlanMemory;
  readonly dtype: Dtype;
  readonly kv: KvCacheOptions;
  readonly maxSequences: number;
  /** What the context and the KV cache allow. */
  readonly maxModelLen: number;
}

async function prepare(
  { config, checkpoint, generation }: ModelDirectory,
  options: CheckedEngineOptions,
): Promise<Prepared> {
  samplingDefaults(generation);
  const model = defineModel(config);
  const { maxBatchTokens, maxSequences } = options.scheduler;
  const contextLength = maxModelLen(model, options);
  const dtype = options.dtype === "auto" ? automaticDtype(checkpoint) : options.dtype;
  const plan = compileModel(model, { maxTokens: maxBatchTokens, maxOutputs: maxSequences, dtype });
  const sources = findWeights(plan, checkpoint);
  const { threads } = options;
  const device = { ...chooseDevice(options.device), ...(threads !== undefined && { threads }) };
  const { blockSize } = options.kvCache;
  const kvDtype = options.kvCache.dtype === "auto" ? dtype : options.kvCache.dtype;
  const measured = await measurePlan(plan, { blockSize, dtype: kvDtype }, device);
  const { memory } = measured;
  const demand = { ...options.kvCache, maxSequences, maxModelLen: contextLength };
  const numBlocks = sizeKvCache(demand, memory, measured.device.availableMemory);
  return {
    model,
    plan,
    sources,
    device,
    memory,
    dtype,
    kv: { numBlocks, blockSize, dtype: kvDtype },
    maxSequences,
    maxModelLen: effectiveMaxModelLen(contextLength, numBlocks, blockSize),
  };
}

function maxModelLen({ maxPositionEmbeddings }: ModelDefinition, options: CheckedEngineOptions) {
  if (options.maxModelLen === undefined) return maxPositionEmbeddings;
  return checkInteger("maxModelLen", options.maxModelLen, { min: 2, max: maxPositionEmbeddings });
}

async function loadExecutor(
  { plan, sources, device, kv, maxSequences }: Prepared,
  loading: { signal: AbortSignal; progress: ProgressReporter },
): Promise<NativeExecutor> {
  const { debug } = readEnvironment();
  if (debug.has("plan")) printLine(planToString(plan));
  const executor = await createNativeExecutor({
    ...device,
    plan,
    kv,
    maxRequests: maxSequences,
    loadWeights: (sink) => loadWeights(plan, sources, sink, loading),
  });
  return debug.has("step") ? profiledExecutor(executor, plan, printLine) : executor;
}

function printLine(line: string): void {
  process.stderr.write(`${line}\n`);
}

/** Loads both at the same time. When one fails, the other is cancelled and closed before the error is passed on. */
async function loadTogether(
  loadExecutor: (signal: AbortSignal) => Promise<NativeExecutor>,
  loadTokenizer: (signal: AbortSignal) => Promise<Tokenizer | undefined>,
  signal: AbortSignal | undefined,
): Promise<readonly [NativeExecutor, Tokenizer | undefined]> {
  const cancel = new AbortController();
  const stopListening = onAbort(signal, ({ cause }) => cancel.abort(cause));
  const executor = loadExecutor(cancel.signal);
  const tokenizer = loadTokenizer(cancel.signal);
  try {
    return await Promise.all([executor, tokenizer]);
  } catch (error) {
    cancel.abort(error);
    for (const load of await Promise.allSettled([executor, tokenizer])) {
      if (load.status === "fulfilled") await load.value?.close();
    }
    throw error;
  } finally {
    stopListening();
  }
}

function describeEngine(
  { name, generation }: ModelDirectory,
  { model, plan, memory, dtype, kv, maxModelLen }: Prepared,
  { device }: NativeExecutor,
  tokenizer: Tokenizer | undefined,
  startedAt: number,
): EngineInfo {
  const loaded = plan.weights.filter(({ source }) => "parts" in source);
  return {
    model: {
      name,
      architecture: model.architecture,
      parameters: sum(loaded.map(({ rows, cols }) => rows * cols)),
      vocabSize: model.vocabSize,
      maxModelLen,
      dtype,
      eosTokenIds: [...new Set([...generation.eosTokenIds, ...(tokenizer?.eosTokenIds ?? [])])],
      hasTokenizer: tokenizer !== undefined,
      hasChatTemplate: tokenizer?.hasChatTemplate ?? false,
    },
    device,
    kvCache: { ...kv, memory: kv.numBlocks * memory.kvBlock },
    weightMemory: memory.weights,
    loadMs: performance.now() - startedAt,
  };
}
