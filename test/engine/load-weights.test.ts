import { describe, expect, it } from "vitest";
import { loadWeights, ProgressReporter } from "../../lib/engine/load-weights.js";
import type { WeightSink } from "../../lib/engine/native-executor.js";
import type { Plan } from "../../lib/graph/plan.js";

/** A plan of so many weights in files, as far as loading looks at it. */
function planOf(count: number): Plan {
  const weights = Array.from({ length: count }, () => ({ source: { parts: [] } }));
  return { weights } as unknown as Plan;
}

function sourcesOf(count: number): { parts: []; bytes: number[] } {
  return { parts: [], bytes: Array.from({ length: count }, () => 10) };
}

const progress = new ProgressReporter(undefined);
const { signal } = new AbortController();

describe("loadWeights", () => {
  it("keeps two weights under way, in order", async () => {
    const log: string[] = [];
    let underWay = 0;
    const sink = {
      load: async (index: number) => {
        log.push(`start ${index}`);
        underWay++;
        expect(underWay).toBeLessThanOrEqual(2);
        await new Promise((resolve) => setTimeout(resolve, 1));
        underWay--;
      },
    } as unknown as WeightSink;
    await loadWeights(planOf(5), sourcesOf(5), sink, { signal, progress });
    expect(log).toEqual(["start 0", "start 1", "start 2", "start 3", "start 4"]);
    expect(underWay).toBe(0);
  });

  it("gives up at once when the signal fires, however long a weight takes", async () => {
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
      load: async (index: number) => {
        started.push(index);
        if (index > 0) throw new Error(`weight ${index}`);
      },
    } as unknown as WeightSink;
    const loading = loadWeights(planOf(9), sourcesOf(9), sink, { signal, progress });
    await expect(loading).rejects.toThrow("weight 1");
    expect(started).toEqual([0, 1, 2]);
  });
});
