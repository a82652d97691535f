import { openModel } from "../loading/model-directory.js";
import { throwIfAborted } from "../loading/safetensors.js";
import { checkEngineOptions } from "./engine-options.js";
import { fullContexts, memoryFits, neededMemory } from "./kv-cache-size.js";
import { prepare, type Prepared } from "./prepare.js";
import type { EngineOptions } from "./types.js";

/** The memory of an engine that has not been made, in bytes where nothing else is said. */
export interface MemoryPlan {
  /** Weights as the device packs them; as `engine.info.weightMemory`. */
  readonly weights: number;
  /** Intermediate results of the largest step. */
  readonly workspace: number;
  readonly kvCache: {
    /** Of all blocks; as `engine.info.kvCache.memory`. */
    readonly memory: number;
    /** The null block included. */
    readonly numBlocks: number;
    /** Tokens a block. */
    readonly blockSize: number;
    readonly dtype: "f32" | "bf16" | "int8";
    /** K and V of one token in all layers, while no window has passed it, with unused layer slots of KV groups. */
    readonly bytesPerToken: number;
    /** Tokens that the blocks hold while no window has passed them; the null block holds none. */
    readonly tokens: number;
    /** Requests of `maxModelLen` tokens that it holds at once, without what lies behind windows; at least 1. */
    readonly fullContexts: number;
  };
  /** Weights, workspace and KV cache together. The tokenizer and Node.js itself come on top. */
  readonly total: number;
  /** Free on the device now; 0: unknown. */
  readonly available: number;
  /** Whether `total` is available, or what is available is unknown. If not, `createEngine` fails with ERR_MEMORY. */
  readonly fits: boolean;
  /** Prompt and output tokens of one request at most; as `engine.info.model.maxModelLen`. */
  readonly maxModelLen: number;
}

/**
 * Says what memory `createEngine` would take with the same options, before anything is loaded or allocated: only
 * the config and the headers of the weight files are read, and the device is asked. Without `kvCache.numBlocks` and
 * `kvCache.memory`, the size of the KV cache depends on the memory that is available at the moment.
 *
 * `onProgress` is not called.
 *
 * @throws PagodaError as `createEngine` for the same options. Three are left to it: a total that is too large, which is told
 *   by `fits`, a tokenizer that cannot be used, and ops that the device lacks. ERR_MEMORY: `kvCache.memory` does not hold two
 *   blocks.
 */
export async function planMemory(options: EngineOptions): Promise<MemoryPlan> {
  const checked = checkEngineOptions(options);
  const { signal } = checked;
  const source = await openModel(checked.model, signal === undefined ? {} : { signal });
  const prepared = await prepare(source, checked);
  await prepared.device.close();
  throwIfAborted(signal);
  return describeMemory(prepared);
}

function describeMemory({
  memory,
  availableMemory,
  kv,
  kvShape,
  maxModelLen,
}: Prepared): MemoryPlan {
  const { numBlocks, blockSize } = kv;
  const numGroups = kvShape.kvGroups.length;
  return {
    weights: memory.weights,
    workspace: memory.arena,
    kvCache: {
      ...kv,
      memory: numBlocks * memory.kvBlock,
      bytesPerToken: (numGroups * memory.kvBlock) / blockSize,
      tokens: Math.floor((numBlocks - 1) / numGroups) * blockSize,
      fullContexts: fullContexts(maxModelLen, numBlocks, kvShape),
    },
    total: neededMemory(memory, numBlocks),
    available: availableMemory,
    fits: memoryFits(memory, numBlocks, availableMemory),
    maxModelLen,
  };
}
