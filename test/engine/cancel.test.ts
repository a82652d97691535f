import { describe, expect, it } from "vitest";
import type { LlmEngine } from "../../lib/engine/engine.js";
import type { Generation } from "../../lib/engine/types.js";
import { checkEnginesAfterEach, collectUnhandled, testEngine } from "../support/engines.js";
import { FakeExecutor } from "../support/fake-executor.js";
import { FakeTokenizer } from "../support/fake-tokenizer.js";
import { promptOf } from "../support/simulate.js";

checkEnginesAfterEach();

const aborted = { code: "ERR_ABORTED" };
const long = { maxTokens: 50, ignoreEos: true };

function turns(count: number): Promise<void> {
  return count === 0
    ? Promise.resolve()
    : new Promise((resolve) => setImmediate(() => resolve(turns(count - 1))));
}

/** How a request can be ended early; each also while its prompt is tokenised, queued, computed or decoded. */
const ways: Record<
  string,
  (engine: LlmEngine, prompt: string | number[]) => [Generation, () => void]
> = {
  "cancel()": (engine, prompt) => {
    const generation = engine.generate({ prompt, ...long });
    return [generation, () => generation.cancel("enough")];
  },
  "its signal": (engine, prompt) => {
    const controller = new AbortController();
    const generation = engine.generate({ prompt, ...long, signal: controller.signal });
    return [generation, () => controller.abort("enough")];
  },
};

describe.each(Object.keys(ways))("a request ended by %s", (way) => {
  const begin = ways[way]!;

  it.each([0, 1, 2, 3, 5, 9, 20])(
    "after %s turns of the event loop gives its blocks back",
    async (count) => {
      const executor = new FakeExecutor({ maxTokens: 8 });
      const engine = testEngine(executor, { tokenizer: new FakeTokenizer() });
      const [text, end] = begin(engine, "a prompt of some length");
      const [ids, endIds] = begin(engine, promptOf(30));
      const healthy = engine.generate({
        prompt: promptOf(9),
        maxTokens: 30,
        ignoreEos: true,
        temperature: 0,
      });
      await turns(count);
      end();
      endIds();
      expect([text.state, ids.state]).toEqual(["done", "done"]);
      await expect(text).rejects.toMatchObject({ ...aborted, cause: "enough" });
      await expect(ids).rejects.toMatchObject({ ...aborted, cause: "enough" });
      expect((await healthy).tokenIds).toEqual(executor.expected(promptOf(9), 30));
      const steps = executor.steps.length;
      await turns(5);
      expect(executor.steps).toHaveLength(steps);
    },
  );

  it("in a step gives its blocks back when that step is over", async () => {
    let inStep = () => {};
    const onCall = (call: number) => (call === 2 ? inStep() : undefined);
    const executor = new FakeExecutor({ onCall });
    const engine = testEngine(executor);
    const [generation, end] = begin(engine, promptOf(9));
    inStep = () => {
      end();
      expect(engine.stats().freeBlocks).toBeLessThan(engine.stats().totalBlocks);
    };
    await expect(generation).rejects.toMatchObject(aborted);
    await turns(2);
    expect(executor.calls).toBe(3);
    expect(engine.stats()).toMatchObject({ freeBlocks: 64, outputTokens: 2 });
  });

  it("twice, or after its end, changes nothing", async () => {
    const engine = testEngine(new FakeExecutor());
    const [generation, end] = begin(engine, [1]);
    end();
    end();
    generation.cancel("again");
    await expect(generation).rejects.toMatchObject({ cause: "enough" });
    const done = engine.generate({ prompt: [1], maxTokens: 2, ignoreEos: true });
    await done;
    done.cancel();
    expect((await done).tokenIds).toHaveLength(2);
  });
});

describe("a signal", () => {
  it("that is aborted already ends the request before it is queued", async () => {
    const executor = new FakeExecutor();
    const engine = testEngine(executor);
    const generation = engine.generate({ prompt: [1], signal: AbortSignal.abort("no") });
    expect(generation.state).toBe("done");
    await expect(generation).rejects.toMatchObject({ ...aborted, cause: "no" });
    expect(executor.calls).toBe(0);
  });

  it("keeps no listener once its requests have ended, and may be shared by many", async () => {
    const { signal } = new AbortController();
    let listeners = 0;
    const add = signal.addEventListener.bind(signal);
    const remove = signal.removeEventListener.bind(signal);
    signal.addEventListener = (...args: Parameters<typeof add>) => (listeners++, add(...args));
    signal.removeEventListener = (...args: Parameters<typeof remove>) => (
      listeners--,
      remove(...args)
    );
    const engine = testEngine(new FakeExecutor());
    const requests = Array.from({ length: 20 }, (_, i) => ({
      prompt: [i + 1],
      maxTokens: 2,
      signal,
    }));
    const generations = requests.map((request) => engine.generate(request));
    expect(listeners).toBe(20);
    await Promise.all(generations);
    expect(listeners).toBe(0);
  });
});

describe("leaving the loop", () => {
  it("cancels, and is no unhandled rejection", async () => {
    const unhandled = await collectUnhandled(async () => {
      const engine = testEngine(new FakeExecutor());
      const generation = engine.generate({ prompt: promptOf(9), ...long });
      let deltas = 0;
      for await (const _ of generation) if (++deltas === 3) break;
      expect(generation.state).toBe("done");
      await turns(3);
      expect(engine.stats()).toMatchObject({ running: 0, freeBlocks: 64 });
    });
    expect(unhandled).toEqual([]);
  });

  it("by an exception cancels, too", async () => {
    const engine = testEngine(new FakeExecutor());
    const generation = engine.generate({ prompt: [1], ...long });
    const loop = async () => {
      for await (const _ of generation) throw new RangeError("mine");
    };
    await expect(loop()).rejects.toThrow("mine");
    await expect(generation).rejects.toMatchObject(aborted);
  });

  it("by cancel() inside of it throws there", async () => {
    const engine = testEngine(new FakeExecutor());
    const generation = engine.generate({ prompt: [1], ...long });
    const loop = async () => {
      for await (const _ of generation) generation.cancel();
    };
    await expect(loop()).rejects.toMatchObject(aborted);
  });

  it("after the last delta keeps the result", async () => {
    const engine = testEngine(new FakeExecutor());
    const generation = engine.generate({ prompt: [1], maxTokens: 3, ignoreEos: true });
    for await (const { finishReason } of generation) if (finishReason) break;
    expect((await generation).tokenIds).toHaveLength(3);
  });
});

describe("disposal", () => {
  it("cancels what has not ended", async () => {
    const engine = testEngine(new FakeExecutor());
    let outer: Generation;
    {
      await using generation = engine.generate({ prompt: [1], ...long });
      outer = generation;
      await turns(4);
    }
    await expect(outer).rejects.toMatchObject(aborted);
  });
});

describe("random cancels", () => {
  it("never leak blocks nor disturb others", async () => {
    const executor = new FakeExecutor({ numBlocks: 25, maxTokens: 16 });
    const engine = testEngine(executor, { tokenizer: new FakeTokenizer() });
    let random = 12345;
    const next = (below: number) =>
      (random = (Math.imul(random, 1103515245) + 12345) >>> 1) % below;
    const outcomes = await Promise.all(
      Array.from({ length: 300 }, async (_, i) => {
        await turns(next(100));
        const prompt = promptOf(1 + next(30), i);
        const maxTokens = 1 + next(20);
        const generation = engine.generate({ prompt, maxTokens, ignoreEos: true, temperature: 0 });
        if (next(2) === 0) {
          const { tokenIds } = await generation;
          expect(tokenIds).toEqual(executor.expected(prompt, maxTokens));
          return "done";
        }
        await turns(next(60));
        generation.cancel();
        return generation.then(
          () => "done",
          () => "cancelled",
        );
      }),
    );
    expect(outcomes.filter((outcome) => outcome === "cancelled").length).toBeGreaterThan(50);
  });
});
