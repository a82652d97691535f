import { describe, expect, it } from "vitest";
import {
  loadWeights,
  ProgressReporter,
  type WeightSources,
} from "../../lib/engine/load-weights.js";
import type { WeightSink } from "../../lib/engine/native-executor.js";
import type { Plan } from "../../lib/graph/plan.js";

/** A plan of so many weights in files, as far as loading looks at it. */
function planOf(count: number): Plan {
  const weights = Array.from({ length: count }, () => ({ source: { parts: [] } }));
  return { weights } as unknown as Plan;
}

/** Each weight is large enough for a job of its own, unless `bytes` is given. */
function sourcesOf(count: number, bytes = 64 * 2 ** 20): WeightSources {
  const weights = Array.from({ length: count });
  return { parts: weights.map(() => []), bytes: weights.map(() => bytes) };
}

const progress = new ProgressReporter(undefined);
const { signal } = new AbortController();

type Loaded = Parameters<WeightSink["load"]>[0];

describe("loadWeights", () => {
  it("keeps two jobs under way, in order", async () => {
    const log: number[] = [];
    let underWay = 0;
    const sink = {
      load: async ([weight]: Loaded) => {
        log.push(weight!.index);
        underWay++;
        expect(underWay).toBeLessThanOrEqual(2);
        await new Promise((resolve) => setTimeout(resolve, 1));
        underWay--;
      },
    } as unknown as WeightSink;
    await loadWeights(planOf(5), sourcesOf(5), sink, { signal, progress });
    expect(log).toEqual([0, 1, 2, 3, 4]);
    expect(underWay).toBe(0);
  });

  it("loads small weights together, by bytes and by number, and constants on their own", async () => {
    const log: unknown[] = [];
    const sink: WeightSink = {
      load: async (weights) => void log.push(weights.map(({ index }) => index)),
      set: async (index) => void log.push(index),
    };
    const plan = planOf(6);
    Object.assign(plan.weights[1]!, { source: { data: new Float32Array(1) } });
    await loadWeights(plan, sourcesOf(6, 30 * 2 ** 20), sink, { signal, progress });
    expect(log).toEqual([1, [0, 2, 3], [4, 5]]);
    log.length = 0;
    await loadWeights(planOf(100), sourcesOf(100, 1), sink, { signal, progress });
    expect(log.map((weights) => (weights as number[]).length)).toEqual([64, 36]);
  });

  it("reports the bytes of what is loaded", async () => {
    const seen: number[] = [];
    const reporter = new ProgressReporter(({ loaded }) => seen.push(loaded));
    let last = Promise.resolve();
    const wait = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 40));
    const sink = { load: () => (last = last.then(wait)) } as unknown as WeightSink;
    await loadWeights(planOf(3), sourcesOf(3), sink, { signal, progress: reporter });
    expect(seen).toEqual([0, 64 * 2 ** 20, 128 * 2 ** 20]);
  });

  it("gives up at once when the signal fires, however long a job takes", async () => {
    const controller = new AbortController();
    const sink = { load: () => new Promise(() => {}) } as unknown as WeightSink;
    const loading = loadWeights(planOf(3), sourcesOf(3), sink, {
      signal: controller.signal,
      progress,
    });
    controller.abort("enough");
    await expect(loading).rejects.toMatchObject({ code: "ERR_ABORTED", cause: "enough" });
  });

  it("passes on the error of a weight, and starts no other", async () => {
    const started: number[] = [];
    const sink = {
      load: async ([weight]: Loaded) => {
        const { index } = weight!;
        started.push(index);
        if (index > 0) throw new Error(`weight ${index}`);
      },
    } as unknown as WeightSink;
    const loading = loadWeights(planOf(9), sourcesOf(9), sink, { signal, progress });
    await expect(loading).rejects.toThrow("weight 1");
    expect(started).toEqual([0, 1, 2]);
  });
});
