import { describe, expect, it } from "vitest";
import type { Executor } from "../../lib/engine/executor.js";
import type { KvCacheOptions } from "../../lib/native.js";
import { executorKinds, type ExecutorKind } from "../support/executors.js";
import { loadGolden, type Golden } from "../support/golden.js";
import { makeStep, type RequestStep } from "../support/step.js";

// Other devices may choose their kernels by the batch.
const kinds = (await executorKinds({ emulatedGpus: 1 })).filter((kind) => !kind.mayLackOps);

/** Sizes of chunks and blocks. An emulator is slow, and has the first ones only. */
const machines = [
  [7, 5],
  [1, 4],
  [16, 16],
  [23, 3],
] as const;

/** A row's bits depend on its own sequence alone: not on chunks, company, block size, block ids or rows that are asked for. */
describe.each([
  ["hf-tiny/qwen3", "f32", "f32"],
  ["hf-tiny/gemma3", "f32", "f32"],
  ["hf-extra/llama-odd", "f32", "f32"],
  ["hf-tiny/qwen3", "q8", "f32"],
  ["hf-tiny/llama", "q4", "f32"],
  ["hf-tiny/gemma3", "f32", "bf16"],
  ["hf-tiny/gemma3", "f32", "int8"],
  ["hf-extra/llama-odd", "f32", "int8"],
  ["hf-tiny/mixtral", "f32", "f32"],
  ["hf-tiny/qwen3-moe", "q8", "f32"],
  ["hf-tiny/gpt-oss", "bf16", "bf16"],
  ["hf-tiny/gpt-oss", "f32", "f32"],
  ["hf-tiny/deepseek-v2", "q8", "f32"],
  ["hf-tiny/deepseek-v3", "f32", "f32"],
  ["hf-tiny/deepseek-v3", "bf16", "bf16"],
  ["hf-tiny/deepseek-v3-yarn", "q4", "int8"],
  ["hf-extra/deepseek-v2-groups", "f32", "f32"],
] as const)("%s in %s, KV cache in %s", (name, dtype, kvDtype) => {
  const golden = loadGolden(name, dtype);

  it.each(kinds)("on $name", async (kind) => {
    const model = await golden;
    const [a, b] = model.cases.map(({ ids }) => ids);
    const ids = a as readonly number[];
    const expected = await withExecutor(
      kind,
      model,
      { blockSize: 16, dtype: kvDtype },
      (executor) => {
        const request = { tokenIds: ids, blocks: [1, 2, 3, 4] };
        return executor.logits(makeStep([request], 16, executor.limits.kvGroups.length));
      },
    );
    for (const [chunk, blockSize] of kind.isEmulated ? machines.slice(0, 1) : machines) {
      const actual = await withExecutor(kind, model, { blockSize, dtype: kvDtype }, (executor) => {
        return inCompany(executor, ids, b as readonly number[], chunk);
      });
      const differing = actual.findIndex((value, i) => !Object.is(value, expected[i]));
      expect(differing, `chunks of ${chunk}, blocks of ${blockSize}`).toBe(-1);
    }
  });
});

describe("a step without outputs", () => {
  it.each(kinds)("only fills the cache, on $name", async (kind) => {
    const model = await loadGolden("hf-tiny/llama");
    const ids = model.cases[0]?.ids ?? [];
    const blocks = [5, 4, 3, 2];
    await withExecutor(kind, model, { blockSize: 16, dtype: "f32" }, async (executor) => {
      const expected = await executor.logits(
        makeStep([{ tokenIds: ids, blocks, outputs: [63] }], 16),
      );
      const first = makeStep([{ tokenIds: ids.slice(0, 63), blocks, outputs: [] }], 16);
      expect(await executor.execute(first)).toEqual({
        tokens: new Int32Array(),
        finite: new Int32Array(),
      });
      expect(await executor.logits(first)).toEqual(new Float32Array());
      const last = { tokenIds: ids.slice(63), numComputedTokens: 63, blocks };
      expect(await executor.logits(makeStep([last], 16))).toEqual(expected);
    });
  });
});

async function withExecutor<T>(
  kind: ExecutorKind,
  { plan, weights }: Golden,
  cache: Pick<KvCacheOptions, "blockSize" | "dtype">,
  use: (executor: Executor) => Promise<T>,
): Promise<T> {
  const kv = { numBlocks: 120 * plan.kvGroups.length, ...cache };
  const executor = await kind.create({ plan, weights, kv, maxRequests: 4 });
  try {
    return await use(executor);
  } finally {
    await executor.close();
  }
}

/** Logits of `ids`, run in chunks between two requests that grow beside it by a token a step. */
async function inCompany(
  executor: Executor,
  ids: readonly number[],
  others: readonly number[],
  chunk: number,
) {
  const { vocabSize, blockSize, kvGroups } = executor.limits;
  const blocksFrom = (first: number): number[] =>
    Array.from({ length: Math.ceil(64 / blockSize) }, (_, i) => first + 3 * i);
  const companion = (step: number, first: number): RequestStep => {
    const position = step % others.length;
    return {
      tokenIds: others.slice(position, position + 1),
      numComputedTokens: position,
      blocks: blocksFrom(first),
    };
  };
  const logits = new Float32Array(ids.length * vocabSize);
  for (let step = 0; step * chunk < ids.length; step++) {
    const start = step * chunk;
    const tokenIds = ids.slice(start, start + chunk);
    const request = { tokenIds, numComputedTokens: start, blocks: blocksFrom(2) };
    const all = await executor.logits(
      makeStep([companion(step, 1), request, companion(step, 3)], blockSize, kvGroups.length),
    );
    logits.set(all.subarray(vocabSize, (1 + tokenIds.length) * vocabSize), start * vocabSize);
  }
  return logits;
}
