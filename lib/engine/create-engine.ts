import { randomInt } from "node:crypto";
import { readEnvironment } from "../environment.js";
import { planToString } from "../graph/plan-to-string.js";
import { openModel, type ModelSource } from "../loading/model-directory.js";
import { fingerprintModel } from "../loading/model-fingerprint.js";
import { throwIfAborted } from "../loading/safetensors.js";
import { loadTokenizer, type Tokenizer } from "../loading/tokenizer.js";
import { onAbort } from "./abort.js";
import { LlmEngine } from "./engine.js";
import { checkEngineOptions } from "./engine-options.js";
import { checkMemoryFits } from "./kv-cache-size.js";
import { loadWeights, ProgressReporter, sum } from "./load-weights.js";
import { openPlan, type NativeExecutor } from "./native-executor.js";
import { prepare, type Prepared } from "./prepare.js";
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
  const source = await openModel(checked.model, signal === undefined ? {} : { signal });
  const prepared = await prepare(source, checked);
  const { fingerprint, executor, tokenizer } = await load(source, prepared, { signal, progress });
  const total = sum(prepared.sources.bytes);
  const facts = { ...source, fingerprint };
  const info = describeEngine(facts, prepared, executor, tokenizer, startedAt);
  const { scheduler } = checked;
  const { generation } = source;
  const { prefixSharing } = checked.kvCache;
  const kvCache = { prefixSharing, hashSeed: randomInt(2 ** 48 - 1) }; // that clients cannot foresee
  const engine = new LlmEngine({ executor, tokenizer, info, generation, scheduler, kvCache });
  try {
    throwIfAborted(signal);
    progress.report({ phase: "ready", loaded: total, total });
  } catch (error) {
    await engine.close();
    throw error;
  }
  return engine;
}

/** What takes long. Closes the device when it fails. */
async function load(
  source: ModelSource,
  prepared: Prepared,
  { signal, progress }: { signal: AbortSignal | undefined; progress: ProgressReporter },
): Promise<{ fingerprint: string; executor: NativeExecutor; tokenizer: Tokenizer | undefined }> {
  try {
    const fingerprint = await fingerprintModel(source, signal === undefined ? {} : { signal });
    checkMemoryFits(prepared.memory, prepared.kv.numBlocks, prepared.availableMemory);
    throwIfAborted(signal);
    const [executor, tokenizer] = await loadTogether(
      (signal) => loadExecutor(prepared, { signal, progress }),
      (signal) => openTokenizer(source, signal),
      signal,
    );
    return { fingerprint, executor, tokenizer };
  } catch (error) {
    await prepared.device.close();
    throw error;
  }
}

async function loadExecutor(
  { plan, sources, device, kv, maxSequences, enforceEager }: Prepared,
  loading: { signal: AbortSignal; progress: ProgressReporter },
): Promise<NativeExecutor> {
  const { debug } = readEnvironment();
  if (debug.has("plan")) printLine(planToString(plan));
  const executor = await openPlan(device, {
    plan,
    kv,
    maxRequests: maxSequences,
    enforceEager,
    loadWeights: (sink) => loadWeights(plan, sources, sink, loading),
  });
  return debug.has("step") ? profiledExecutor(executor, plan, printLine) : executor;
}

function printLine(line: string): void {
  process.stderr.write(`${line}\n`);
}

async function openTokenizer(
  { tokenizer }: ModelSource,
  signal: AbortSignal,
): Promise<Tokenizer | undefined> {
  return tokenizer === undefined ? undefined : loadTokenizer(tokenizer, { signal });
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
  { name, generation, fingerprint }: ModelSource & { readonly fingerprint: string },
  { model, plan, memory, dtype, kv, maxModelLen, passedOver }: Prepared,
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
      fingerprint,
    },
    device,
    passedOver,
    kvCache: { ...kv, memory: kv.numBlocks * memory.kvBlock },
    weightMemory: memory.weights,
    loadMs: performance.now() - startedAt,
  };
}
