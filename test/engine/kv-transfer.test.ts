import { describe, expect, it } from "vitest";
import type { Executor } from "../../lib/engine/executor.js";
import { blocksPerTransfer, kvLayout } from "../../lib/engine/kv-transfer.js";
import type { PlanWeight } from "../../lib/graph/plan.js";
import { createNativeExecutor } from "../../lib/engine/native-executor.js";
import { executorKinds, type ExecutorKind } from "../support/executors.js";
import { FakeExecutor } from "../support/fake-executor.js";
import { loadGolden, type Golden } from "../support/golden.js";
import { makeStep } from "../support/step.js";

const blockSize = 4;
const numBlocks = 40;

// Others may lack ops of the models.
const kinds = (await executorKinds()).filter((kind) => !kind.mayLackOps);

async function withExecutors<T>(
  kind: ExecutorKind,
  { plan, weights }: Golden,
  use: (first: Executor, second: Executor) => Promise<T>,
): Promise<T> {
  const kv = { numBlocks: 1 + plan.kvGroups.length * (numBlocks - 1), blockSize };
  const create = () => kind.create({ plan, weights, kv, maxRequests: 2 });
  const executors = await Promise.all([create(), create()]);
  try {
    return await use(...(executors as [Executor, Executor]));
  } finally {
    for (const executor of executors) await executor.close();
  }
}

const range = (first: number, count: number) => Array.from({ length: count }, (_, i) => first + i);

async function fillWithNaN(executor: Executor): Promise<void> {
  const all = Int32Array.from(range(1, executor.limits.numBlocks - 1)); // but the null block
  const bytes = new Uint8Array(all.length * executor.kvBlockBytes).fill(0xff);
  await executor.writeBlocks(all, bytes);
}

const models = ["hf-tiny/qwen3", "hf-tiny/gemma3", "hf-tiny/llama", "hf-tiny/deepseek-v3"];

describe.each(models)("%s", (name) => {
  const golden = loadGolden(name);

  it.each(kinds)("goes on from blocks of another executor, bit for bit, on $name", async (kind) => {
    const model = await golden;
    const numGroups = model.plan.kvGroups.length;
    /** As makeStep chooses them. */
    const inAllGroups = (blocks: number[]) =>
      Int32Array.from(blocks.flatMap((b) => range((b - 1) * numGroups + 1, numGroups)));
    const ids = model.cases[0]?.greedy.slice(0, 61) ?? [];
    const numPromptTokens = 50; // the last block is partial
    const blocks = range(1, 16);
    const moved = range(20, 16).reverse();
    const prompt = ids.slice(0, numPromptTokens);
    const rest = { tokenIds: ids.slice(numPromptTokens), numComputedTokens: numPromptTokens };
    await withExecutors(kind, model, async (first, second) => {
      const begin = { tokenIds: prompt, blocks, outputs: [] };
      await first.execute(makeStep([begin], blockSize, numGroups));
      const used = Math.ceil(numPromptTokens / blockSize);
      const bytes = await first.readBlocks(inAllGroups(blocks.slice(0, used)));
      expect(bytes.length).toBe(used * numGroups * first.kvBlockBytes);
      const expected = await first.logits(makeStep([{ ...rest, blocks }], blockSize, numGroups));
      for (const executor of [second, first]) {
        await fillWithNaN(executor);
        await executor.writeBlocks(inAllGroups(moved.slice(0, used)), bytes);
        const goOn = makeStep([{ ...rest, blocks: moved }], blockSize, numGroups);
        const actual = await executor.logits(goOn);
        expect(Buffer.compare(bytesOf(actual), bytesOf(expected))).toBe(0);
      }
    });
  });
});

const bytesOf = ({ buffer, byteOffset, byteLength }: Float32Array): Buffer =>
  Buffer.from(buffer, byteOffset, byteLength);

describe.each(kinds)("readBlocks and writeBlocks on $name", (kind) => {
  const golden = loadGolden("hf-extra/llama-odd");

  it("keep the bytes, whatever they are, and touch no other block", async () => {
    await withExecutors(kind, await golden, async (executor) => {
      const size = executor.kvBlockBytes;
      await fillWithNaN(executor);
      const bytes = Uint8Array.from({ length: 3 * size }, (_, i) => (7 * i + i / size) % 256);
      const before = bytes.slice();
      const written = executor.writeBlocks(Int32Array.of(7, 3, 9), bytes);
      bytes.fill(0); // they were copied at once
      await written;
      const read = Buffer.from(await executor.readBlocks(Int32Array.of(9, 8, 7, 3, 4)));
      const block = (i: number) => read.subarray(i * size, (i + 1) * size);
      expect(block(2).equals(before.subarray(0, size))).toBe(true);
      expect(block(3).equals(before.subarray(size, 2 * size))).toBe(true);
      expect(block(0).equals(before.subarray(2 * size))).toBe(true);
      for (const i of [1, 4]) expect(block(i).every((byte) => byte === 0xff)).toBe(true);
      expect(await executor.readBlocks(new Int32Array())).toEqual(new Uint8Array());
      await executor.writeBlocks(new Int32Array(), new Uint8Array());
    });
  });

  it("take their turn among steps", async () => {
    await withExecutors(kind, await golden, async (executor, other) => {
      const step = makeStep([{ tokenIds: [3, 4, 5, 6], blocks: [2] }], blockSize);
      const two = Int32Array.of(2);
      await fillWithNaN(executor);
      const first = executor.execute(step);
      const after = executor.readBlocks(two);
      await first;
      await other.execute(step);
      expect(Buffer.compare(await after, await other.readBlocks(two))).toBe(0);
    });
  });

  it.each([-1, numBlocks, 2 ** 31 - 1, -(2 ** 31)])("refuse block %i", async (bad) => {
    await withExecutors(kind, await golden, async (executor) => {
      const blocks = Int32Array.of(1, bad);
      const bytes = new Uint8Array(2 * executor.kvBlockBytes);
      const error = { code: "ERR_ARGUMENT", details: { parameter: "blocks[1]", received: bad } };
      await expect(executor.readBlocks(blocks)).rejects.toMatchObject(error);
      await expect(executor.writeBlocks(blocks, bytes)).rejects.toMatchObject(error);
    });
  });

  it("never write the null block, nor too few or too many bytes", async () => {
    await withExecutors(kind, await golden, async (executor) => {
      const size = executor.kvBlockBytes;
      const refused = (blocks: Int32Array, bytes: Uint8Array, parameter: string) =>
        expect(executor.writeBlocks(blocks, bytes)).rejects.toMatchObject({
          code: "ERR_ARGUMENT",
          details: { parameter },
        });
      await refused(Int32Array.of(0), new Uint8Array(size), "blocks[0]");
      for (const length of [0, size - 1, size + 1, 2 * size]) {
        await refused(Int32Array.of(1), new Uint8Array(length), "bytes");
      }
      await refused(Int32Array.of(1), undefined as never, "bytes");
      await refused([1] as never, new Uint8Array(size), "blocks");
      await expect(executor.readBlocks(Int32Array.of(0))).resolves.toHaveLength(size);
    });
  });

  it("move some MB at most", async () => {
    await withExecutors(kind, await golden, async (executor) => {
      const most = blocksPerTransfer(executor.kvBlockBytes);
      const bytes = await executor.readBlocks(new Int32Array(most).fill(1));
      expect(bytes.length).toBe(most * executor.kvBlockBytes);
      await expect(executor.readBlocks(new Int32Array(most + 1))).rejects.toMatchObject({
        code: "ERR_ARGUMENT",
        details: { parameter: "blocks" },
      });
    });
  });

  it("fail once closed", async () => {
    await withExecutors(kind, await golden, async (executor) => {
      const bytes = new Uint8Array(executor.kvBlockBytes);
      await executor.close();
      const closed = { code: "ERR_CLOSED" };
      await expect(executor.readBlocks(Int32Array.of(1))).rejects.toMatchObject(closed);
      await expect(executor.writeBlocks(Int32Array.of(1), bytes)).rejects.toMatchObject(closed);
    });
  });
});

describe("the addon itself", () => {
  it("refuses what the executor would have refused", async () => {
    const { plan, weights } = await loadGolden("hf-extra/llama-odd");
    const executor = await createNativeExecutor({
      plan,
      kv: { numBlocks, blockSize, dtype: "bf16" },
      maxRequests: 1,
      loadWeights: async (sink) => {
        for (const [index, data] of weights.entries()) await sink.set(index, data);
      },
    });
    const { jobs, kvBlockBytes } = executor;
    const refused = { code: "ERR_ARGUMENT" };
    const one = new Uint8Array(kvBlockBytes);
    const most = blocksPerTransfer(kvBlockBytes);
    const read = (blocks: Int32Array) => jobs.bytes((native) => native.readBlocks(blocks));
    const write = (blocks: Int32Array, bytes: Uint8Array) =>
      jobs.run((native) => native.writeBlocks(blocks, bytes));
    await expect(read(new Int32Array(most))).resolves.toHaveLength(most * kvBlockBytes);
    await expect(read(new Int32Array(most + 1))).rejects.toMatchObject(refused);
    await expect(read(Int32Array.of(numBlocks))).rejects.toMatchObject(refused);
    await expect(read([1] as never)).rejects.toMatchObject(refused);
    await expect(write(Int32Array.of(0), one)).rejects.toMatchObject(refused);
    await expect(write(Int32Array.of(-1), one)).rejects.toMatchObject(refused);
    await expect(write(Int32Array.of(1, 2), one)).rejects.toMatchObject(refused);
    await expect(write(Int32Array.of(1), undefined as never)).rejects.toMatchObject(refused);
    await executor.close();
  });
});

const isFromFile = ({ source }: PlanWeight): boolean => "parts" in source;

describe("kvLayout", () => {
  it("is equal for executors of one kind, and for no others", async () => {
    const [llama, qwen] = await Promise.all([
      loadGolden("hf-extra/llama-odd"),
      loadGolden("hf-tiny/qwen3"),
    ]);
    const layouts = new Set<string>();
    for (const kind of kinds) {
      for (const model of [llama, qwen]) {
        await withExecutors(kind, model, async (first, second) => {
          expect(first.kvLayout).toBe(second.kvLayout);
          layouts.add(first.kvLayout);
        });
      }
    }
    expect(layouts.size).toBe(2 * kinds.length);
  });

  it("names everything that decides the bits", async () => {
    const { plan } = await loadGolden("hf-tiny/gemma3", "bf16");
    const input = { backend: "cpu", isa: "avx2", plan };
    const kv = { blockSize: 16, dtype: "bf16" } as const;
    const layout = kvLayout({ ...input, kv });
    expect(layout).toMatch(
      /^v1 cpu\/avx2, weights bf16\+f32, constants [0-9a-f]{8}, kv bf16, blocks of 16, layers 6\*\(1x16\), groups 5\*\(window 16\)\+1\*\(window 0\)$/,
    );
    const others = [
      { ...input, kv, backend: "cuda" },
      { ...input, kv, isa: "avx512" },
      { ...input, kv: { ...kv, blockSize: 32 } },
      { ...input, kv: { ...kv, dtype: "f32" } as const },
      { ...input, kv, plan: (await loadGolden("hf-tiny/gemma3")).plan },
      { ...input, kv, plan: { ...plan, weights: plan.weights.filter(isFromFile) } },
      { ...input, kv, plan: { ...plan, kvLayers: plan.kvLayers.slice(1) } },
      { ...input, kv, plan: { ...plan, kvGroups: plan.kvGroups.slice(1) } },
      { ...input, kv, plan: { ...plan, kvGroups: [{ slidingWindow: 0 }] } },
      { ...input, kv, plan: { ...plan, kvLayers: [...plan.kvLayers, plan.kvLayers[0]!] } },
    ];
    expect(new Set([layout, ...others.map(kvLayout)]).size).toBe(1 + others.length);
  });
});

describe("the fake executor", () => {
  it("goes on from blocks of another one, and has the same checks", async () => {
    const [first, second] = [new FakeExecutor(), new FakeExecutor()];
    const ids = [5, 6, 7, 8, 9, 10];
    const next = { tokenIds: [11], numComputedTokens: 6, outputs: [0] };
    const at = (blocks: number[]) => {
      const step = makeStep([{ ...next, blocks }], blockSize);
      return { ...step, sampling: { ...step.sampling, position: Int32Array.of(7) } };
    };
    await first.execute(makeStep([{ tokenIds: ids, blocks: [1, 2], outputs: [] }], blockSize));
    const bytes = await first.readBlocks(Int32Array.of(1, 2));
    await second.writeBlocks(Int32Array.of(9, 4), bytes);
    const expected = await first.execute(at([1, 2]));
    expect(await second.execute(at([9, 4]))).toEqual(expected);
    expect(second.kvLayout).toBe(first.kvLayout);
    await expect(second.writeBlocks(Int32Array.of(0, 1), bytes)).rejects.toMatchObject({
      code: "ERR_ARGUMENT",
    });
  });
});
