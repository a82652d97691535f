import { afterEach, expect } from "vitest";
import { LlmEngine, type EngineParts } from "../../lib/engine/engine.js";
import type { Executor } from "../../lib/engine/executor.js";
import type { EngineInfo } from "../../lib/engine/types.js";
import type { GenerationDefaults } from "../../lib/loading/generation-config.js";
import type { Tokenizer } from "../../lib/loading/tokenizer.js";
import { byPriority } from "../../lib/scheduler/policy.js";
import { fakeEos } from "./fake-tokenizer.js";

export interface TestEngineOptions {
  readonly tokenizer?: Tokenizer;
  readonly maxModelLen?: number;
  readonly eosTokenIds?: readonly number[];
  readonly fingerprint?: string;
  readonly generation?: Partial<GenerationDefaults>;
  readonly scheduler?: Partial<EngineParts["scheduler"]>;
  readonly kvCache?: EngineParts["kvCache"];
}

const engines: LlmEngine[] = [];

/** An engine over any executor. After the test it is checked for leaks and closed. */
export function testEngine(executor: Executor, options: TestEngineOptions = {}): LlmEngine {
  const { tokenizer, maxModelLen = 64, eosTokenIds = [fakeEos], generation } = options;
  const { limits } = executor;
  const scheduler = {
    maxBatchTokens: limits.maxTokens,
    maxSequences: Math.min(limits.maxRequests, limits.maxOutputs),
    maxChunkTokens: limits.maxTokens,
    maxQueue: 1024,
    policy: byPriority,
    ...options.scheduler,
  };
  const engine = new LlmEngine({
    executor,
    tokenizer,
    info: info(executor, { ...options, maxModelLen, eosTokenIds }),
    generation: { eosTokenIds, ...generation },
    scheduler,
    ...(options.kvCache && { kvCache: options.kvCache }),
  });
  engines.push(engine);
  return engine;
}

/** Call once in a test file: after each test no block is in use, and nothing runs or waits. */
export function checkEnginesAfterEach(): void {
  afterEach(async () => {
    for (const engine of engines.splice(0)) {
      expect(await idleStats(engine)).toEqual({ usedBlocks: 0, running: 0, waiting: 0 });
      await engine.close().catch(() => {}); // a test may have made it fail
      expect(usage(engine)).toEqual({ usedBlocks: 0, running: 0, waiting: 0 });
    }
  });
}

/** Runs `work` and returns the rejections that nobody handled meanwhile. The test runner does not see them. */
export async function collectUnhandled(work: () => Promise<void>): Promise<unknown[]> {
  const listeners = process.listeners("unhandledRejection");
  const collected: unknown[] = [];
  process.removeAllListeners("unhandledRejection");
  process.on("unhandledRejection", (reason) => collected.push(reason));
  try {
    await work();
    await new Promise((resolve) => setTimeout(resolve, 10));
  } finally {
    process.removeAllListeners("unhandledRejection");
    for (const listener of listeners) process.on("unhandledRejection", listener);
  }
  return collected;
}

interface UsageNumbers {
  readonly usedBlocks: number;
  readonly running: number;
  readonly waiting: number;
}

function usage(engine: LlmEngine): UsageNumbers {
  const { totalBlocks, freeBlocks, running, waiting } = engine.stats();
  return { usedBlocks: totalBlocks - freeBlocks, running, waiting };
}

/** The numbers once they are all 0, or after a second. */
async function idleStats(engine: LlmEngine): Promise<UsageNumbers> {
  for (let i = 0; i < 200; i++) {
    const { usedBlocks, running, waiting } = usage(engine);
    if (usedBlocks + running + waiting === 0) break;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  return usage(engine);
}

function info(
  { limits }: Executor,
  options: Required<Pick<TestEngineOptions, "maxModelLen" | "eosTokenIds">> & TestEngineOptions,
): EngineInfo {
  const { maxModelLen, eosTokenIds, fingerprint = "f".repeat(64) } = options;
  return {
    model: {
      name: "fake",
      architecture: "FakeForCausalLM",
      parameters: 0,
      vocabSize: limits.vocabSize,
      maxModelLen,
      dtype: "f32",
      eosTokenIds,
      hasTokenizer: false,
      hasChatTemplate: false,
      fingerprint,
    },
    device: {
      backend: "fake",
      index: 0,
      name: "fake",
      isa: "",
      totalMemory: 0,
      availableMemory: 0,
      threads: 1,
    },
    passedOver: [],
    kvCache: { blockSize: limits.blockSize, numBlocks: limits.numBlocks, dtype: "f32", memory: 0 },
    weightMemory: 0,
    loadMs: 0,
  };
}
