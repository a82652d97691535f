import { describe, expect, it } from "vitest";
import { LiveGeneration } from "../../lib/engine/generation.js";
import type { GeneratedOutput, GenerateResult } from "../../lib/engine/types.js";
import { PagodaError } from "../../lib/errors.js";
import { collectUnhandled } from "../support/engines.js";

const output: GeneratedOutput = { text: "abc", tokenIds: [1, 2, 3], finishReason: "length" };
const result: GenerateResult = {
  ...output,
  outputs: [output],
  promptTokenIds: [9],
  usage: {
    promptTokens: 1,
    cachedTokens: 0,
    outputTokens: 3,
    queueMs: 0,
    prefillMs: 1,
    decodeMs: 1,
    ttftMs: 1,
    totalMs: 2,
  },
};
const failure = new PagodaError("ERR_BACKEND_FAILED", "lost");

function newGeneration(): LiveGeneration {
  const generation: LiveGeneration = new LiveGeneration("id", (error) =>
    generation.fail(error, true),
  );
  return generation;
}

/** Pushes "a", "b", "c" in turns of the event loop, then ends. */
async function run(generation: LiveGeneration): Promise<void> {
  generation.start();
  for (const [i, text] of ["a", "b", "c"].entries()) {
    generation.push(0, { text, tokenIds: [i + 1] });
    await new Promise((resolve) => setImmediate(resolve));
  }
  generation.end(0, "length");
  generation.finish(result);
}

describe("reading", () => {
  it("joins the deltas that were not read in time", async () => {
    const generation = newGeneration();
    await run(generation);
    const deltas = [];
    for await (const delta of generation) deltas.push(delta);
    const { finishReason, usage } = result;
    expect(deltas).toEqual([{ index: 0, text: "abc", tokenIds: [1, 2, 3], finishReason, usage }]);
  });

  it("gets each delta as it comes, and the end by itself", async () => {
    const generation = newGeneration();
    const running = run(generation);
    const texts = [];
    for await (const { text, tokenIds, finishReason } of generation)
      texts.push([text, tokenIds, finishReason]);
    await running;
    expect(texts).toEqual([
      ["a", [1], undefined],
      ["b", [2], undefined],
      ["c", [3], undefined],
      ["", [], "length"],
    ]);
  });

  it("works with several pending next()", async () => {
    const generation = newGeneration();
    const iterator = generation[Symbol.asyncIterator]();
    const reads = [
      iterator.next(),
      iterator.next(),
      iterator.next(),
      iterator.next(),
      iterator.next(),
    ];
    await run(generation);
    const values = await Promise.all(reads);
    expect(values.map(({ value }) => value?.text)).toEqual(["a", "b", "c", "", undefined]);
    expect(values.at(-1)!.done).toBe(true);
  });

  it("and awaiting can be mixed, in any order", async () => {
    const generation = newGeneration();
    const running = run(generation);
    expect(await generation).toBe(result);
    let text = "";
    for await (const delta of generation) text += delta.text;
    expect(text).toBe("abc");
    expect(await generation).toBe(result);
    await running;
  });

  it("is possible once", async () => {
    const generation = newGeneration();
    generation[Symbol.asyncIterator]();
    expect(() => generation[Symbol.asyncIterator]()).toThrow(
      expect.objectContaining({ code: "ERR_ARGUMENT" }),
    );
  });

  it("gets what came before a failure, then the error, once", async () => {
    const generation = newGeneration();
    const iterator = generation[Symbol.asyncIterator]();
    generation.push(0, { text: "a", tokenIds: [1] });
    generation.fail(failure, false);
    expect((await iterator.next()).value).toEqual({ index: 0, text: "a", tokenIds: [1] });
    await expect(iterator.next()).rejects.toBe(failure);
    expect(await iterator.next()).toEqual({ done: true, value: undefined });
  });
});

describe("an error", () => {
  it("that nobody looks at is an unhandled rejection", async () => {
    const unhandled = await collectUnhandled(async () => newGeneration().fail(failure, false));
    expect(unhandled).toEqual([failure]);
  });

  it("that is looked at is none", async () => {
    const unhandled = await collectUnhandled(async () => {
      const awaited = newGeneration();
      const seen = awaited.then(undefined, (error) => error);
      awaited.fail(failure, false);
      expect(await seen).toBe(failure);
      const iterated = newGeneration();
      const next = iterated[Symbol.asyncIterator]().next();
      iterated.fail(failure, false);
      await expect(next).rejects.toBe(failure);
    });
    expect(unhandled).toEqual([]);
  });

  it("of a generation that its owner ended is none", async () => {
    const unhandled = await collectUnhandled(async () => {
      newGeneration().cancel();
      newGeneration().fail(failure, true);
    });
    expect(unhandled).toEqual([]);
  });

  it("is unhandled where only a part of the promises is", async () => {
    const unhandled = await collectUnhandled(async () => {
      const generation = newGeneration();
      generation[Symbol.asyncIterator]();
      void generation.then(() => "derived, without a handler");
      generation.fail(failure, false);
    });
    expect(unhandled).toEqual([failure]);
  });
});
