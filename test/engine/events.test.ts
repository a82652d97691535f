import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { describe, expect, it, onTestFinished } from "vitest";
import type { LlmEngine } from "../../lib/engine/engine.js";
import { EventHub } from "../../lib/engine/event-hub.js";
import type { EngineEvents } from "../../lib/engine/events.js";
import { checkEnginesAfterEach, collectUnhandled, testEngine } from "../support/engines.js";
import { FakeExecutor } from "../support/fake-executor.js";
import { FakeTokenizer } from "../support/fake-tokenizer.js";
import { promptOf } from "../support/simulate.js";

checkEnginesAfterEach();

type Name = keyof EngineEvents;
type Recorded = { [K in Name]: { readonly name: K; readonly event: EngineEvents[K] } }[Name];

const requestEvents = [
  "request:queued",
  "request:start",
  "request:preempted",
  "request:finish",
] as const;
const allEvents: readonly Name[] = [...requestEvents, "step"];

/** Records everything from now on, in order. */
function record(engine: LlmEngine, names: readonly Name[] = allEvents): Recorded[] {
  const recorded: Recorded[] = [];
  for (const name of names) {
    engine.on(name, (event) => void recorded.push({ name, event } as Recorded));
  }
  return recorded;
}

function namesOf(recorded: readonly Recorded[], id: string): Name[] {
  return recorded.filter(({ event }) => "id" in event && event.id === id).map(({ name }) => name);
}

/** Warnings of the process while `work` runs, but none of them printed. */
async function collectWarnings(work: () => Promise<void>): Promise<Error[]> {
  const listeners = process.listeners("warning");
  const warnings: Error[] = [];
  process.removeAllListeners("warning");
  process.on("warning", (warning) => warnings.push(warning));
  try {
    await work();
    await new Promise((resolve) => setTimeout(resolve, 5));
  } finally {
    process.removeAllListeners("warning");
    for (const listener of listeners) process.on("warning", listener);
  }
  return warnings;
}

const greedy = { temperature: 0, ignoreEos: true } as const;

describe("events of a request", () => {
  it("come in order, with the result's usage", async () => {
    const engine = testEngine(new FakeExecutor());
    const recorded = record(engine);
    const generation = engine.generate({ prompt: promptOf(5), maxTokens: 3, ...greedy });
    const { usage } = await generation;
    const about = { id: generation.id, model: "fake" };
    const requests = recorded.filter(({ name }) => name !== "step");
    expect(requests).toEqual([
      { name: "request:queued", event: about },
      { name: "request:start", event: { ...about, cachedTokens: 0 } },
      {
        name: "request:finish",
        event: { ...about, finishReason: "length", errorCode: undefined, usage },
      },
    ]);
    expect(recorded.map(({ name }) => name)).toEqual([
      ...["request:queued", "request:start", "step", "step", "request:finish", "step"],
    ]);
  });

  it("tell how many prompt tokens were cached", async () => {
    const engine = testEngine(new FakeExecutor());
    const cached: number[] = [];
    engine.on("request:start", ({ cachedTokens }) => void cached.push(cachedTokens));
    const request = { prompt: promptOf(11), maxTokens: 1, ...greedy };
    await engine.generate(request);
    const { usage } = await engine.generate(request);
    expect(cached).toEqual([0, 8]); // two full blocks of 4 tokens
    expect(usage.cachedTokens).toBe(8);
  });

  it("tell preemptions, and each request's once", async () => {
    const engine = testEngine(new FakeExecutor({ numBlocks: 9 }), { maxModelLen: 32 });
    const recorded = record(engine);
    const generations = [1, 2, 3].map((seed) =>
      engine.generate({ prompt: promptOf(6, seed), maxTokens: 14, ...greedy }),
    );
    await Promise.all(generations);
    const preempted = recorded.filter(({ name }) => name === "request:preempted");
    expect(preempted.length).toBe(engine.stats().preemptions);
    expect(preempted.length).toBeGreaterThan(0);
    for (const { id } of generations) {
      const names = namesOf(recorded, id).filter((name) => name !== "request:preempted");
      expect(names).toEqual(["request:queued", "request:start", "request:finish"]);
    }
  });

  it("end with an error code where the request fails", async () => {
    const engine = testEngine(new FakeExecutor({ isFinite: ({ length }) => length < 4 }));
    const recorded = record(engine, ["request:finish"]);
    await expect(engine.generate({ prompt: [1, 2], maxTokens: 8, ...greedy })).rejects.toThrow();
    const cancelled = engine.generate({ prompt: [1], maxTokens: 8 });
    cancelled.cancel();
    await expect(cancelled).rejects.toMatchObject({ code: "ERR_ABORTED" });
    expect(recorded.map(({ event }) => event)).toMatchObject([
      {
        errorCode: "ERR_NON_FINITE",
        finishReason: undefined,
        usage: { promptTokens: 2, outputTokens: 2 },
      },
      {
        errorCode: "ERR_ABORTED",
        finishReason: undefined,
        usage: { promptTokens: 1, outputTokens: 0 },
      },
    ]);
    expect(engine.stats()).toMatchObject({
      finished: { stop: 0, length: 0, deadline: 0, abort: 1, error: 1 },
      decodeMs: 0,
    });
  });

  it("are told for requests that end when the engine is closed or fails", async () => {
    const failing = testEngine(
      new FakeExecutor({ onCall: () => Promise.reject(new Error("lost")) }),
    );
    const closed = testEngine(new FakeExecutor());
    const codes: (string | undefined)[] = [];
    for (const engine of [failing, closed]) {
      engine.on("request:finish", ({ errorCode }) => void codes.push(errorCode));
    }
    await expect(failing.generate({ prompt: [1] })).rejects.toThrow("lost");
    closed.generate({ prompt: [1] });
    await closed.close();
    expect(codes).toEqual(["ERR_BACKEND_FAILED", "ERR_CLOSED"]);
    expect(failing.stats().finished).toMatchObject({ error: 1, abort: 0 });
    expect(closed.stats().finished).toMatchObject({ error: 0, abort: 1 });
  });

  it("are not told for requests that were refused", async () => {
    const engine = testEngine(new FakeExecutor());
    const recorded = record(engine);
    expect(() => engine.generate({ prompt: [] })).toThrow();
    const aborted = engine.generate({ prompt: [1], signal: AbortSignal.abort() });
    await expect(aborted).rejects.toMatchObject({ code: "ERR_ABORTED" });
    expect(recorded).toEqual([]);
    expect(engine.stats().finished.abort).toBe(0);
  });
});

describe("the event of a step", () => {
  it("has the step's own numbers", async () => {
    const executor = new FakeExecutor();
    const engine = testEngine(executor, { scheduler: { maxBatchTokens: 16, maxChunkTokens: 16 } });
    const recorded = record(engine, ["step"]);
    const lengths = [20, 3, 3];
    await Promise.all(
      lengths.map((length, seed) =>
        engine.generate({ prompt: promptOf(length, seed), maxTokens: 4, ...greedy }),
      ),
    );
    const steps = recorded.map(({ event }) => event as EngineEvents["step"]);
    expect(steps.map(({ tokens, requests, outputs }) => ({ tokens, requests, outputs }))).toEqual(
      executor.steps,
    );
    const { totalBlocks, stepMs } = engine.stats();
    expect(steps.at(-1)!.freeBlocks).toBe(totalBlocks);
    expect(steps[0]!.freeBlocks).toBe(totalBlocks - 4);
    for (const { durationMs } of steps) expect(durationMs).toBeGreaterThanOrEqual(0);
    const sum = steps.reduce((total, { durationMs }) => total + durationMs, 0);
    expect(stepMs).toBeCloseTo(sum, 6);
  });
});

describe("events of the cache", () => {
  it("tell which blocks of tokens can be found, after the step", async () => {
    const engine = testEngine(new FakeExecutor({ numBlocks: 6 }), { maxModelLen: 20 });
    const told: EngineEvents["cache"][] = [];
    let steps = 0;
    engine.on("step", () => void steps++);
    engine.on("cache", (event) => {
      expect(steps).toBeGreaterThan(0);
      told.push(event);
      if (event.type === "stored") event.tokenIds.fill(-1); // theirs alone
    });
    const prompt = promptOf(9);
    await engine.generate({ prompt, maxTokens: 1, ...greedy });
    const [first, second, ...rest] = told.splice(0);
    expect(rest).toEqual([]);
    expect(first).toMatchObject({ type: "stored", model: "fake", parentHash: undefined });
    expect(second).toMatchObject({ type: "stored", parentHash: (first as { hash: number }).hash });
    const again = await engine.generate({ prompt, maxTokens: 1, ...greedy });
    expect(again.usage.cachedTokens).toBe(8);
    expect(told.splice(0)).toEqual([]);
    await engine.generate({ prompt: promptOf(19, 2), maxTokens: 1, ...greedy });
    expect(new Set(told.splice(0).map(({ type }) => type))).toEqual(new Set(["stored", "removed"]));
    engine.resetPrefixCache();
    expect(told).toEqual([{ type: "cleared", model: "fake" }]);
  });

  it("may reset the cache or close the engine in their listeners", async () => {
    const engine = testEngine(new FakeExecutor());
    engine.on("cache", ({ type }) => {
      if (type === "stored") engine.resetPrefixCache();
    });
    await engine.generate({ prompt: promptOf(30), maxTokens: 9, ...greedy });
    expect(engine.stats().cachedBlocks).toBe(0);
    engine.on("cache", () => void engine.close());
    const last = engine.generate({ prompt: promptOf(30), maxTokens: 9, ...greedy });
    await expect(last).rejects.toMatchObject({ code: "ERR_CLOSED" });
  });
});

describe("a listener", () => {
  it("may throw or reject without disturbing anything; its first failure is a warning", async () => {
    const executor = new FakeExecutor();
    const engine = testEngine(executor);
    let calls = 0;
    const warnings = await collectWarnings(async () => {
      const unhandled = await collectUnhandled(async () => {
        for (const name of allEvents) {
          engine.on(name, () => {
            throw new Error(`from ${name}`);
          });
        }
        engine.on("step", async () => {
          calls++;
          throw "not even an error";
        });
        const { tokenIds } = await engine.generate({ prompt: [1, 2], maxTokens: 4, ...greedy });
        expect(tokenIds).toEqual(executor.expected([1, 2], 4));
      });
      expect(unhandled).toEqual([]);
    });
    expect(calls).toBe(4);
    expect(warnings.every(({ name }) => name === "PagodaWarning")).toBe(true);
    expect(warnings.map(({ message }) => message).sort()).toEqual([
      'A listener of "request:finish" failed: from request:finish',
      'A listener of "request:queued" failed: from request:queued',
      'A listener of "request:start" failed: from request:start',
      'A listener of "step" failed: "not even an error"',
      'A listener of "step" failed: from step',
    ]);
    expect(warnings[0]).toMatchObject({ code: "PAGODA_LISTENER" });
  });

  it.each(allEvents)("may cancel requests and close the engine in %s", async (name) => {
    const engine = testEngine(new FakeExecutor({ numBlocks: 9 }), {
      maxModelLen: 32,
      tokenizer: new FakeTokenizer(),
    });
    engine.on(name, () => void engine.close());
    const request = { maxTokens: 14, ...greedy };
    const ends = ["abcdef", "bcdefg", promptOf(6, 3)].map((prompt) => {
      try {
        return engine.generate({ prompt, ...request }).then(
          () => "done",
          ({ code }) => code,
        );
      } catch (error) {
        return (error as { code: string }).code;
      }
    });
    const codes = new Set(await Promise.all(ends));
    expect(codes.has("ERR_CLOSED")).toBe(true);
    codes.delete("ERR_CLOSED");
    codes.delete("done");
    expect([...codes]).toEqual([]);
  });

  it("is called until its signal fires or it is taken off", async () => {
    const engine = testEngine(new FakeExecutor());
    const controller = new AbortController();
    const calls = { signal: 0, off: 0, never: 0, both: 0 };
    engine.on("request:queued", () => void calls.signal++, { signal: controller.signal });
    const off = engine.on("request:queued", () => void calls.off++);
    engine.on("request:queued", () => void calls.never++, { signal: AbortSignal.abort() });
    const twice = (): void => void calls.both++;
    engine.on("request:queued", twice);
    engine.on("request:queued", twice);
    await engine.generate({ prompt: [1], maxTokens: 1 });
    controller.abort();
    off();
    off();
    await engine.generate({ prompt: [1], maxTokens: 1 });
    expect(calls).toEqual({ signal: 1, off: 1, never: 0, both: 4 });
  });

  it("may come and go while an event is told", () => {
    const hub = new EventHub();
    const calls: string[] = [];
    const about = { id: "1", model: "m" };
    const off = hub.on("request:queued", () => {
      calls.push("first");
      off();
      hub.on("request:queued", () => void calls.push("late"));
    });
    hub.on("request:queued", () => void calls.push("second"));
    hub.emit("request:queued", () => about);
    hub.emit("request:queued", () => about);
    expect(calls).toEqual(["first", "second", "second", "late"]);
  });

  it("costs nothing while there is none", () => {
    const hub = new EventHub();
    let made = 0;
    const make = (): EngineEvents["request:queued"] => ({ id: String(made++), model: "m" });
    hub.emit("request:queued", make);
    const off = hub.on("request:queued", () => {});
    hub.emit("request:queued", make);
    off();
    hub.emit("request:queued", make);
    expect(made).toBe(1);
  });

  it.each([
    ["event", ["stop", () => {}]],
    ["event", ["__proto__", () => {}]],
    ["event", [undefined, () => {}]],
    ["listener", ["step", "a"]],
    ["options", ["step", () => {}, null]],
    ["signal", ["step", () => {}, { signal: 1 }]],
  ])("is refused with the name of a bad %s", (parameter, bad) => {
    const engine = testEngine(new FakeExecutor());
    const on = engine.on.bind(engine) as (...values: unknown[]) => unknown;
    expect(() => on(...bad)).toThrow(
      expect.objectContaining({
        code: "ERR_ARGUMENT",
        details: expect.objectContaining({ parameter }),
      }),
    );
  });
});

describe("diagnostics channels", () => {
  it("publish the records that listeners get", async () => {
    const published: Recorded[] = [];
    for (const name of allEvents) {
      const listener = (event: unknown): void => void published.push({ name, event } as Recorded);
      subscribe(`pagoda:${name}`, listener);
      onTestFinished(() => void unsubscribe(`pagoda:${name}`, listener));
    }
    const engine = testEngine(new FakeExecutor());
    await engine.generate({ prompt: [1, 2, 3], maxTokens: 2, ...greedy });
    expect(published.map(({ name }) => name)).toEqual([
      ...["request:queued", "request:start", "step", "request:finish", "step"],
    ]);
    const recorded = record(engine);
    published.length = 0;
    await engine.generate({ prompt: [1, 2, 3], maxTokens: 2, ...greedy });
    expect(recorded).toEqual(published);
    expect(recorded.every(({ event }, i) => event === published[i]!.event)).toBe(true);
  });
});

describe("times of a request", () => {
  it("add up", async () => {
    const engine = testEngine(new FakeExecutor(), { scheduler: { maxSequences: 1 } });
    const usages = (
      await Promise.all(
        [1, 2, 3].map((seed) =>
          engine.generate({ prompt: promptOf(5, seed), maxTokens: 6, ...greedy }),
        ),
      )
    ).map(({ usage }) => usage);
    for (const { queueMs, prefillMs, decodeMs, ttftMs, totalMs } of usages) {
      expect(queueMs + prefillMs).toBeCloseTo(ttftMs, 6);
      expect(ttftMs + decodeMs).toBeCloseTo(totalMs, 6);
      for (const time of [queueMs, prefillMs, decodeMs]) expect(time).toBeGreaterThan(0);
    }
    expect(usages[2]!.queueMs).toBeGreaterThan(usages[1]!.totalMs - usages[1]!.queueMs);
    const stats = engine.stats();
    for (const time of ["queueMs", "prefillMs", "decodeMs"] as const) {
      const sum = usages.reduce((total, usage) => total + usage[time], 0);
      expect(stats[time]).toBeCloseTo(sum, 6);
    }
    expect(stats.finished).toEqual({ stop: 0, length: 3, deadline: 0, abort: 0, error: 0 });
  });

  it("put a preemption into the phase in which it happens", async () => {
    const engine = testEngine(new FakeExecutor({ numBlocks: 9 }), { maxModelLen: 32 });
    const preempted = new Set<string>();
    engine.on("request:preempted", ({ id }) => void preempted.add(id));
    const generations = [1, 2, 3].map((seed) =>
      engine.generate({ prompt: promptOf(6, seed), maxTokens: 14, ...greedy }),
    );
    const results = await Promise.all(generations);
    const usages = results.map(({ usage }) => usage);
    const last = generations.findIndex(({ id }) => preempted.has(id));
    // All began in the first step, so none has waited in the queue, but the preempted one took longest.
    for (const { queueMs, ttftMs } of usages) expect(ttftMs).toBeGreaterThan(queueMs);
    const others = usages.filter((_, i) => !preempted.has(generations[i]!.id));
    expect(usages[last]!.decodeMs).toBeGreaterThan(Math.max(...others.map((u) => u.decodeMs)));
  });
});
