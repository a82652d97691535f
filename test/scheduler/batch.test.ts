import { describe, expect, it } from "vitest";
import { BlockManager } from "../../lib/cache/block-manager.js";
import { Batch } from "../../lib/scheduler/batch.js";
import { Scheduler } from "../../lib/scheduler/scheduler.js";
import { Sequence } from "../../lib/scheduler/sequence.js";

const stop = { maxTokens: 4, eosTokenIds: new Set<number>(), stopTokenIds: new Set<number>() };
const sampling = { temperature: 0.5, topK: 7, topP: 0.75, minP: 0.125, seed: [11, 22] } as const;

describe("Batch", () => {
  it("packs a ragged step", () => {
    const blocks = new BlockManager({ numBlocks: 9, blockSize: 4 });
    const scheduler = new Scheduler(blocks, { maxBatchTokens: 9, maxSequences: 4 });
    const batch = new Batch(blocks);
    scheduler.add(
      new Sequence({ id: 0, promptTokenIds: [10, 11, 12, 13, 14, 15], stop, sampling }),
    );
    scheduler.add(new Sequence({ id: 1, promptTokenIds: [20, 21, 22, 23, 24], stop }));
    const first = scheduler.schedule()!;
    expect(batch.pack(first)).toEqual({
      tokenIds: Int32Array.of(10, 11, 12, 13, 14, 15, 20, 21, 22),
      positions: Int32Array.of(0, 1, 2, 3, 4, 5, 0, 1, 2),
      queryStartLoc: Int32Array.of(0, 6, 9),
      seqLens: Int32Array.of(6, 3),
      blockTable: Int32Array.of(1, 2, 3, 0),
      maxBlocks: 2,
      slotMapping: Int32Array.of(4, 5, 6, 7, 8, 9, 12, 13, 14),
      blockCopies: new Int32Array(0),
      outputRows: Int32Array.of(5),
      sampling: {
        temperature: Float32Array.of(0.5),
        topK: Int32Array.of(7),
        topP: Float32Array.of(0.75),
        minP: Float32Array.of(0.125),
        seed: Uint32Array.of(11, 22),
        position: Int32Array.of(6),
      },
    });
    scheduler.commit(first, { tokens: Int32Array.of(16), finite: Int32Array.of(1) });
    expect(batch.pack(scheduler.schedule()!)).toMatchObject({
      tokenIds: Int32Array.of(16, 23, 24),
      positions: Int32Array.of(6, 3, 4),
      queryStartLoc: Int32Array.of(0, 1, 3),
      seqLens: Int32Array.of(7, 5),
      blockTable: Int32Array.of(1, 2, 3, 4),
      slotMapping: Int32Array.of(10, 15, 16),
      outputRows: Int32Array.of(0, 2),
      sampling: { topP: Float32Array.of(0.75, 1), position: Int32Array.of(7, 5) },
    });
  });

  it("clears what a longer table left behind", () => {
    const blocks = new BlockManager({ numBlocks: 9, blockSize: 1 });
    const scheduler = new Scheduler(blocks, { maxBatchTokens: 9, maxSequences: 4 });
    const batch = new Batch(blocks);
    const long = new Sequence({ id: 0, promptTokenIds: [1, 2, 3, 4], stop });
    scheduler.add(long);
    const step = scheduler.schedule()!;
    batch.pack(step);
    scheduler.commit(step, { tokens: Int32Array.of(5), finite: Int32Array.of(1) });
    scheduler.abort(long);
    scheduler.add(new Sequence({ id: 1, promptTokenIds: [1], stop }));
    scheduler.add(new Sequence({ id: 2, promptTokenIds: [1, 2, 3], stop }));
    const { blockTable, maxBlocks } = batch.pack(scheduler.schedule()!);
    expect(maxBlocks).toBe(3);
    expect([...blockTable.subarray(1, 3)]).toEqual([0, 0]);
  });

  it("reuses its arrays", () => {
    const blocks = new BlockManager({ numBlocks: 9, blockSize: 4 });
    const scheduler = new Scheduler(blocks, { maxBatchTokens: 9, maxSequences: 4 });
    const batch = new Batch(blocks);
    scheduler.add(new Sequence({ id: 0, promptTokenIds: [1, 2, 3], stop }));
    const step = scheduler.schedule()!;
    const first = batch.pack(step);
    scheduler.commit(step, { tokens: Int32Array.of(5), finite: Int32Array.of(1) });
    const second = batch.pack(scheduler.schedule()!);
    expect(second.tokenIds.buffer).toBe(first.tokenIds.buffer);
    expect(second.blockTable.buffer).toBe(first.blockTable.buffer);
  });
});
