import { checkBoolean, checkInteger, checkObject, checkSignal } from "../arguments.js";
import { argumentError } from "../errors.js";
import { modelDtypes, type ModelDtype } from "../graph/choose-dtype.js";
import type { KvCacheOptions } from "../native.js";
import { byPriority, fcfs, type Policy } from "../scheduler/policy.js";
import type { EngineOptions, LoadProgress } from "./types.js";

/** {@link EngineOptions} with the defaults that need no model; undefined: the model or the machine decides. */
export interface CheckedEngineOptions {
  readonly model: string;
  readonly device: string;
  readonly dtype: "auto" | ModelDtype;
  readonly kvCache: {
    readonly blockSize: number;
    readonly numBlocks: number | undefined;
    readonly memory: number | undefined;
    readonly dtype: "auto" | KvCacheOptions["dtype"];
    readonly prefixSharing: boolean;
  };
  readonly scheduler: {
    readonly maxBatchTokens: number;
    readonly maxSequences: number;
    readonly maxQueue: number;
    readonly maxChunkTokens: number;
    readonly policy: Policy;
  };
  readonly maxModelLen: number | undefined;
  readonly mlaExpandFrom: number;
  readonly threads: number | undefined;
  readonly enforceEager: boolean;
  readonly signal: AbortSignal | undefined;
  readonly onProgress: ((progress: LoadProgress) => void) | undefined;
}

const maxInt32 = 2 ** 31 - 1;

/** Checks everything that can be checked without the model. @throws ERR_ARGUMENT naming the option */
export function checkEngineOptions(options: EngineOptions): CheckedEngineOptions {
  checkObject("options", options);
  const { model, device = "cpu", dtype = "auto", kvCache = {}, scheduler = {} } = options;
  const { maxModelLen, mlaExpandFrom = 0, threads, signal, onProgress } = options;
  const { enforceEager = false } = options;
  if (typeof model !== "string") throw argumentError("model", "the path of a directory", model);
  if (typeof device !== "string") throw argumentError("device", "a string", device);
  if (onProgress !== undefined && typeof onProgress !== "function") {
    throw argumentError("onProgress", "a function", onProgress);
  }
  return {
    model,
    device,
    dtype: checkDtype("dtype", dtype, modelDtypes),
    kvCache: checkKvCache(kvCache),
    scheduler: checkScheduler(scheduler),
    maxModelLen: optionalInteger("maxModelLen", maxModelLen, 2, maxInt32),
    mlaExpandFrom: checkInteger("mlaExpandFrom", mlaExpandFrom, { min: 0, max: maxInt32 }),
    threads: optionalInteger("threads", threads, 1, 1024),
    enforceEager: checkBoolean("enforceEager", enforceEager),
    signal: checkSignal("signal", signal),
    onProgress,
  };
}

function checkKvCache(
  options: NonNullable<EngineOptions["kvCache"]>,
): CheckedEngineOptions["kvCache"] {
  checkObject("kvCache", options);
  const { blockSize = 16, numBlocks, memory, dtype = "auto", prefixSharing = true } = options;
  return {
    blockSize: checkInteger("kvCache.blockSize", blockSize, { min: 1, max: 256 }),
    numBlocks: optionalInteger("kvCache.numBlocks", numBlocks, 2, maxInt32),
    memory: optionalInteger("kvCache.memory", memory, 1, Number.MAX_SAFE_INTEGER),
    dtype: checkDtype("kvCache.dtype", dtype, ["f32", "bf16", "int8"]),
    prefixSharing: checkBoolean("kvCache.prefixSharing", prefixSharing),
  };
}

function checkScheduler(
  options: NonNullable<EngineOptions["scheduler"]>,
): CheckedEngineOptions["scheduler"] {
  checkObject("scheduler", options);
  const { maxBatchTokens = 2048, maxSequences = 64, maxQueue = 1024, maxChunkTokens } = options;
  const { policy = "priority" } = options;
  const budget = checkInteger("scheduler.maxBatchTokens", maxBatchTokens, { min: 1, max: 2 ** 20 });
  return {
    maxBatchTokens: budget,
    maxSequences: checkInteger("scheduler.maxSequences", maxSequences, { min: 1, max: 2 ** 16 }),
    maxQueue: checkInteger("scheduler.maxQueue", maxQueue, { min: 0, max: maxInt32 }),
    maxChunkTokens:
      optionalInteger("scheduler.maxChunkTokens", maxChunkTokens, 1, maxInt32) ?? budget,
    policy: checkPolicy(policy),
  };
}

function optionalInteger(
  parameter: string,
  value: unknown,
  min: number,
  max: number,
): number | undefined {
  return value === undefined ? undefined : checkInteger(parameter, value, { min, max });
}

function checkPolicy(policy: unknown): Policy {
  if (policy === "fcfs") return fcfs;
  if (policy === "priority") return byPriority;
  throw argumentError("scheduler.policy", '"fcfs" or "priority"', policy);
}

function checkDtype<T extends string>(
  parameter: string,
  value: unknown,
  known: readonly T[],
): "auto" | T {
  const dtypes = ["auto", ...known] as const;
  const found = dtypes.find((dtype) => dtype === value);
  if (found !== undefined) return found;
  const names = dtypes.map((dtype) => `"${dtype}"`);
  throw argumentError(parameter, `${names.slice(0, -1).join(", ")} or ${names.at(-1)}`, value);
}
