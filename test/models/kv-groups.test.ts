import { describe, expect, it } from "vitest";
import { chunkBlocks, peakBlocks } from "../../lib/cache/kv-window.js";
import type { Sequence } from "../../lib/scheduler/sequence.js";
import { executorKinds } from "../support/executors.js";
import { goldenMaxTokens, loadGolden } from "../support/golden.js";
import { ModelMachine } from "../support/model-machine.js";

const kinds = (await executorKinds()).filter(({ mayLackOps }) => !mayLackOps);
const blockSize = 4;
const slidingWindow = 16;
const maxChunkTokens = 24;
const scheduler = { maxBatchTokens: goldenMaxTokens, maxSequences: 4, maxChunkTokens };

const promptOf = (length: number, from = 0) =>
  Array.from({ length }, (_, i) => (i * 37 + 5 + from) % 512);
const stop = (maxTokens: number) => {
  return { maxTokens, eosTokenIds: new Set<number>(), stopTokenIds: new Set<number>() };
};

async function machineFor(name: string, kind: (typeof kinds)[number], numBlocks: number) {
  return ModelMachine.create(kind, await loadGolden(name), { blockSize, numBlocks }, scheduler);
}

describe.each(kinds)("gemma3 on $name", (kind) => {
  it("holds all tokens for its full layer alone, else window and chunk", async () => {
    await using machine = await machineFor("hf-tiny/gemma3", kind, 120);
    const { blocks } = machine;
    const prompt = promptOf(120);
    const sequence = machine.add({ promptTokenIds: prompt, stop: stop(60) });
    let numSteps = 0;
    while (await machine.step()) {
      if (sequence.status === "finished") break;
      const { numComputedTokens, blockTable } = sequence;
      const held = blockTable.groups.map(({ numReleased }) => blockTable.numBlocks - numReleased);
      const full = Math.ceil(numComputedTokens / blockSize);
      // Between steps: the window of the next token, wherever blocks begin.
      const windowed = Math.min(full, chunkBlocks(slidingWindow, blockSize, 1));
      for (const count of held.slice(0, 5)) expect(count).toBeLessThanOrEqual(windowed);
      expect(held[5]).toBe(full);
      const used = blocks.numUsableBlocks - blocks.numFreeBlocks;
      expect(blocks.usage(blockTable).blocks).toBe(used);
      expect(used).toBe(held.reduce((a, b) => a + b, 0));
      numSteps++;
    }
    expect(numSteps).toBe(5 - 1 + 60 - 1);
  });

  it("runs to its end in a pool of its peak, which one token more does not fit", async () => {
    const { kvGroups } = (await loadGolden("hf-tiny/gemma3")).plan;
    const peak = peakBlocks(kvGroups, blockSize, 180, maxChunkTokens);
    expect(peak).toBe(45 + 5 * 11);
    await using machine = await machineFor("hf-tiny/gemma3", kind, 1 + peak);
    const sequence = machine.add({ promptTokenIds: promptOf(120), stop: stop(60) });
    expect(() => machine.add({ promptTokenIds: promptOf(121), stop: stop(60) })).toThrow(
      "181 tokens need 101 blocks",
    );
    while (await machine.step());
    expect(sequence.numOutputTokens).toBe(60);
    expect(machine.scheduler.numPreemptions).toBe(0);
  });
});

const windowed = kinds.flatMap((kind) =>
  ["hf-tiny/mistral-swa", "hf-tiny/gemma3"].map((model) => ({ model, name: kind.name, kind })),
);

describe.each(windowed)("a prefix of $model on $name", ({ model, kind }) => {
  it("is hit after the blocks before its windows were reused, with the same tokens", async () => {
    const { kvGroups } = (await loadGolden(model)).plan;
    const peak = peakBlocks(kvGroups, blockSize, 120, maxChunkTokens);
    await using machine = await machineFor(model, kind, 1 + 2 * peak);
    const { blocks } = machine;
    const run = async (length: number, from = 0): Promise<Sequence> => {
      const sequence = machine.add({ promptTokenIds: promptOf(length, from), stop: stop(8) });
      while (await machine.step());
      return sequence;
    };
    const alone = await run(110);
    blocks.resetPrefixCache();
    await run(96); // at its end, 103 tokens are computed
    const pin = blocks.pin(Int32Array.from(promptOf(96)));
    expect(pin.numTokens).toBe(96);
    const numWindowed = kvGroups.filter((group) => group.slidingWindow > 0).length;
    expect(pin.numHeldBlocks).toBe((kvGroups.length - numWindowed) * 24 + numWindowed * 4);
    for (let i = 1; i <= 8; i++) await run(100, 10 * i); // all that is not pinned is reused
    const again = await run(110);
    expect(again.numCachedTokens).toBe(96);
    expect([...again.tokenIds]).toEqual([...alone.tokenIds]);
    blocks.unpin(pin);
  });
});
